"""What of the signed files can be believed: each repository judged, the two joined, time that can't run back."""

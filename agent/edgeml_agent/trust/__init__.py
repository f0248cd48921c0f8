"""Verification of signed files: each TUF repository, the agreement of both, and a time floor."""

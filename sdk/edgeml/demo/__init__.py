"""`edgeml demo`: a real model exported, delivered and served on this machine. All files are removed at the end."""

"""Golden outputs: recorded on the host, reproduced on any CPU by a program of this package."""

"""Golden outputs recorded and reproduced, here or in a child process."""

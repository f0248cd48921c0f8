"""A model tried where it can do no harm, in a child process: before it serves, and when an operator calls."""

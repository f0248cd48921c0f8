"""The command line of the host: a leaf that nothing imports. One file a command, one call into the SDK each."""

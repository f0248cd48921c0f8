"""The device's connection to its broker: `link` keeps it up, and each other module owns one kind of message."""

"""A device that is the origin of its site: pulls each chunk once over the network, and passes words up and down."""

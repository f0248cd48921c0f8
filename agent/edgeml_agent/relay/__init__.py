"""A device that is the origin of its site: it pulls each chunk once over the network, and passes messages both ways."""

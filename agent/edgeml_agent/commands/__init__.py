"""The commands of `edgeml-agent` that show a device's state: status, top, doctor."""

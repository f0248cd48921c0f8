"""What `edgeml-agent` shows: status, top, doctor."""

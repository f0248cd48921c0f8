"""Releases from a stick or a file, verified as if they had come over MQTT."""

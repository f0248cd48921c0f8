"""Releases that come by hand, verified as if they had come over MQTT."""

"""The host's side of a fleet: deployments, the origin of chunks, the registry of devices, their status.

This package imports nothing itself: only `serve` and `call` need MQTT.
"""

"""The fleet from the host's side: deployments, the origin of chunks, the registry of devices, their status.

Imports of MQTT stay in `serve` and what it starts; nothing is imported here.
"""

"""Inference over MQTT, and its announcement to Home Assistant."""

"""Serving: models with a thread and a queue each, shadow traffic, drift, counts. No HTTP and no MQTT here.

This package neither fetches nor verifies: `update` activates models, `http_api` and `mqtt_api` bring requests.
"""

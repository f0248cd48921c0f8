"""The origin of chunks, for whoever has some: the host, from its repository; a relay, from what it has pulled.

`demand` decides what to publish, `origin` waits, reads and publishes. Where payloads come from is a port. `waiting` is
for all who wait.
"""

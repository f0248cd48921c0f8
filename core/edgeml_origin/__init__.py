"""The origin of chunks: the host serves its repository, a relay the chunks that it has pulled.

`cohorts` knows which devices fetch together, `scheduler` decides which chunk to publish when, `origin` waits, reads and
publishes. The store of payloads is a port.
"""

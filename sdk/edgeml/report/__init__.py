"""A bundle's manifest, card and measurements as one HTML page: `page.render`.

It needs no network, no script and no other file. All that comes from the bundle is untrusted: it goes through
`markup`, which escapes it.
"""

"""A bundle's manifest, card and measurements as one HTML page: `page.render`.

The page needs no network, no script and no other file.
"""

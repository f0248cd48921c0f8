"""The dashboard and the REST API of a fleet, as `edgeml fleet serve --http` serves them.

`operations` is the table of all paths. `gateway` checks each request, by the role of its account. `view_model` reads
the fleet.
"""

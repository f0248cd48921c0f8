"""The repository on the host's disk: signed releases, the signed fleet document, and the chunks of all bundles.

No network here: `edgeml.fleet` serves what lies in it.
"""

from edgeml.repository.devices import Enrolled, enroll
from edgeml.repository.layout import Repository, init, opened
from edgeml.repository.offline import SiteCopy, export_site
from edgeml.repository.releases import Published, Release, publish, releases
from edgeml.repository.renewal import Refreshed, refresh
from edgeml.repository.rotation import KeyGroup, NewKeys, rotate

__all__ = [
    "Enrolled",
    "KeyGroup",
    "NewKeys",
    "Published",
    "Refreshed",
    "Release",
    "Repository",
    "SiteCopy",
    "enroll",
    "export_site",
    "init",
    "opened",
    "publish",
    "refresh",
    "releases",
    "rotate",
]

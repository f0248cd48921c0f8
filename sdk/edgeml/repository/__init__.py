"""The repository on the host's disk: signed releases, devices and deployments, and the chunks of all bundles.

No network here: `edgeml.fleet` serves the repository. `Repository` is the entry for callers; its methods are the
functions of this package, each of which takes the folder.
"""

from edgeml.repository.deployments import Deployed, deploy
from edgeml.repository.devices import Enrolled, EnrolledDevice, enroll
from edgeml.repository.layout import RepositoryFolder, init, opened
from edgeml.repository.offline import SiteCopy, export_site
from edgeml.repository.releases import Published, Release, publish, releases
from edgeml.repository.renewal import Refreshed, refresh
from edgeml.repository.repository import Repository
from edgeml.repository.rotation import KeyGroup, NewKeys, rotate
from edgeml.repository.withdrawals import Withdrawn, withdraw

__all__ = [
    "Deployed",
    "Enrolled",
    "EnrolledDevice",
    "KeyGroup",
    "NewKeys",
    "Published",
    "Refreshed",
    "Release",
    "Repository",
    "RepositoryFolder",
    "SiteCopy",
    "Withdrawn",
    "deploy",
    "enroll",
    "export_site",
    "init",
    "opened",
    "publish",
    "refresh",
    "releases",
    "rotate",
    "withdraw",
]

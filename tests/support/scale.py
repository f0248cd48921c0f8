"""How large the campaigns of a run are: everything at night, about a tenth with every `make test`.

EDGEML_NIGHTLY=1  runs tests marked `nightly`, too, and campaigns in full
"""

from __future__ import annotations

import os
from typing import Final

IS_NIGHTLY: Final = os.environ.get("EDGEML_NIGHTLY", "") == "1"


def scaled(nightly: int, otherwise: int) -> int:
    """Return the number for this run."""
    return nightly if IS_NIGHTLY else otherwise

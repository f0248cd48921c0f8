"""Convert a model of transformers for CTranslate2 in int8: `ctranslate2_int8.py PACKAGES MODEL FOLDER`.

PACKAGES is the folder of packages of its environment. The converter runs in edgeml's own, which has torch and
transformers.
"""

from __future__ import annotations

import sys


def main(packages: str, model: str, folder: str) -> None:
    """Convert with the documented call."""
    sys.path.append(packages)  # behind edgeml's own packages, which stay as they are
    import ctranslate2  # noqa: PLC0415 -- its place is known now

    ctranslate2.converters.TransformersConverter(model).convert(folder, quantization="int8")


if __name__ == "__main__":
    main(*sys.argv[1:])

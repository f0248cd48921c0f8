"""Convert a model of transformers with onnxruntime-genai's builder in int4: `genai_int4.py PACKAGES MODEL FOLDER`.

PACKAGES is the folder of packages of its environment. The builder runs in edgeml's own, which has torch and
transformers. Its options are the defaults for CPUs: blocks of 32, activations in int8.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main(packages: str, model: str, folder: str) -> None:
    """Run the builder's command line. Its cache is never used, because the model is a folder."""
    models = Path(packages) / "onnxruntime_genai" / "models"
    sys.path.insert(0, str(models))
    cache = str(Path(folder).with_name("genai-cache"))
    sys.argv = ["builder.py", "-i", model, "-o", folder, "-p", "int4", "-e", "cpu", "-c", cache]
    runpy.run_path(str(models / "builder.py"), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What delivery costs, measured against others in the same run: `python benchmarks/delivery.py [PART]...`.

    size      bytes on the wire for an update of a really retrained model; peak memory of the device's side
    many      publications per chunk for eight devices; what a slow one costs; the broker's memory
    speed     whole chunks to one device: on loopback beside HTTP, and over slow lines
    relay     what fifty devices behind a relay cost the network, beside one device alone

It needs Mosquitto, zstd and bsdiff (`apt-get install mosquitto zstd bsdiff`); `--models FOLDER` keeps what was trained.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

PARTS: Final = {
    "size": ("delivery_parts.size", "delivery_parts.memory"),
    "many": ("delivery_parts.many",),
    "speed": ("delivery_parts.speed",),
    "relay": ("delivery_parts.relay",),
}


def main() -> None:
    """Run the parts named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    parser.add_argument("--models", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            for module in PARTS[part]:
                importlib.import_module(module).run(Path(folder), options.models or Path(folder) / "models")


if __name__ == "__main__":
    main()

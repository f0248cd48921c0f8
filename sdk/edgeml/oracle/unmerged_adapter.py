"""The oracle of an adapter: PEFT puts it into its base model, layer by layer, and merges nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import peft
import torch
import transformers

from edgeml import peft_folder
from edgeml_core.manifest import Task

#: By task: transformers' class with the head.
_CLASSES: Final[dict[Task, Any]] = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
    "image-classification": transformers.AutoModelForImageClassification,
    "object-detection": transformers.AutoModelForObjectDetection,
    "audio-classification": transformers.AutoModelForAudioClassification,
    "automatic-speech-recognition": transformers.AutoModelForCTC,
    "fill-mask": transformers.AutoModelForMaskedLM,
    "text-generation": transformers.AutoModelForCausalLM,
    "text2text-generation": transformers.AutoModelForSeq2SeqLM,
    "feature-extraction": transformers.AutoModel,
}
#: By the argument of a pipeline: the file that shows where the part lies.
_PARTS: Final = {
    "tokenizer": "tokenizer_config.json",
    "image_processor": "preprocessor_config.json",
    "feature_extractor": "preprocessor_config.json",
}


def open_model(folder: Path, task: Task) -> tuple[str, Any, dict[str, str]]:
    """Load an adapter on its base model.

    Returns:
        The libraries with their versions, the model, and the folders of a pipeline's other parts by argument.
    """
    base = peft_folder.base(folder)
    config = transformers.AutoConfig.from_pretrained(str(peft_folder.settings(folder)), local_files_only=True)
    count = peft_folder.head_labels(folder)
    if count is not None and config.num_labels != count:
        config.num_labels = count
    # transformers' default attention leaves out the cap of scores.
    caps = task == "text-generation" and getattr(config, "attn_logit_softcapping", None)
    attention = {"attn_implementation": "eager"} if caps else {}
    whole = _CLASSES[task].from_pretrained(
        str(base), config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32, **attention
    )
    model = peft.PeftModel.from_pretrained(whole, str(folder)).get_base_model().eval()
    versions = f"PEFT {peft.__version__} and transformers {transformers.__version__}"
    places = {part: [it for it in (folder, base) if (it / file).is_file()] for part, file in _PARTS.items()}
    if task in ("image-classification", "object-detection"):
        del places["feature_extractor"]
    elif task != "feature-extraction":
        del places["image_processor"]
    return versions, model, {part: str(found[0]) for part, found in places.items() if found}

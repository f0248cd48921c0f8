"""Tiny models of transformers' architectures with random weights, saved as the library saves them.

A configuration gets the small sizes that its class knows, and those that it alone needs.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from support import breadth_models, tiny_marian, tiny_whisper

#: Pixels of a picture's side, and tokens of a text.
SIDE, TOKENS = 32, 160
#: The spread of the weights: at transformers' own the answers hardly depend on the input.
SPREAD: Final = 0.15
LABELS: Final = breadth_models.LABELS
SPEECH: Final = "automatic-speech-recognition"
REWRITING: Final = "text2text-generation"
#: How a text made of another one is written: random weights hardly ever end it, and repeat one token.
WRITTEN: Final = {"max_length": 12, "min_length": 6, "no_repeat_ngram_size": 2, "repetition_penalty": 1.1}
#: Tokens of a recognizer, by their ids.
LETTERS: Final = ("<s>", "<pad>", "</s>", "<unk>", "|", "E", "T", "A", "O", "N", "'", "S")
_HEADS: Final[dict[str, Any]] = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "fill-mask": transformers.AutoModelForMaskedLM,
    "image-classification": transformers.AutoModelForImageClassification,
    "audio-classification": transformers.AutoModelForAudioClassification,
    SPEECH: transformers.AutoModelForCTC,
    "text-generation": transformers.AutoModelForCausalLM,
    REWRITING: transformers.AutoModelForSeq2SeqLM,
}
_WIDTHS: Final = ("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim", "embedding_size")
_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
_ATTENTIONS: Final = ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads")
_PAIRS: Final = ("encoder_attention_heads", "decoder_attention_heads")
_INNER: Final = ("intermediate_size", "hidden_dim", "d_ff", "ffn_dim", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim")
#: Each goes to the configurations that have a setting of this name.
_SMALL: Final[dict[str, Any]] = {
    **dict.fromkeys(_WIDTHS, 32),
    **dict.fromkeys(_LAYERS + _ATTENTIONS + _PAIRS, 2),
    **dict.fromkeys(_INNER, 64),
    "vocab_size": breadth_models.VOCABULARY,
    "max_position_embeddings": TOKENS + 2,
    "n_positions": TOKENS,
    "head_dim": 16,
    "image_size": SIDE,
    "patch_size": 8,
    "conv_dim": (16,) * 7,
    "d_kv": 16,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
_TOWER: Final = {
    "image_size": SIDE,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_TEXT_TOWER: Final = {**_TOWER, "vocab_size": breadth_models.VOCABULARY}
_STAGES: Final = {"hidden_sizes": [16, 32], "depths": [1, 1]}
_PYRAMID: Final = {
    **_STAGES,
    "num_encoder_blocks": 2,
    "strides": [4, 2],
    "num_attention_heads": [1, 2],
    "mlp_ratios": [2, 2],
}
_WINDOWS: Final = {"patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
#: By architecture: settings that the small ones don't fit.
_OWN: Final[dict[str, dict[str, Any]]] = {
    "audio-spectrogram-transformer": {"max_length": 96, "num_mel_bins": 32},
    "bit": {**_STAGES, "embedding_size": 16, "num_groups": 4},
    "canine": {"num_hash_buckets": 64},
    "clip": {"vision_config": _TOWER, "text_config": _TEXT_TOWER},
    "convnext": {**_STAGES, "num_stages": 2, "patch_size": 4},
    "convnextv2": {**_STAGES, "num_stages": 2, "patch_size": 4},
    "ctrl": {"dff": 64},
    "efficientnet": {"image_size": 64, "width_coefficient": 0.2, "depth_coefficient": 0.2, "hidden_dim": 256},
    "focalnet": {**_STAGES, "embed_dim": 16, "focal_levels": [1, 1], "focal_windows": [3, 3]},
    "gpt_neo": {"attention_types": [[["global"], 2]], "max_position_embeddings": TOKENS},
    "hiera": {
        "image_size": [SIDE, SIDE],
        "patch_size": [7, 7],
        "embed_dim": 16,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "num_query_pool": 1,
        "masked_unit_size": [4, 4],
    },
    "m2m_100": {"forced_bos_token_id": 170},
    "marian": {"decoder_start_token_id": 1},
    "mega": {"nffn_hidden_size": 64, "ema_projection_size": 4, "shared_representation_size": 16},
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.25},
    "mobilevit": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]},
    "mobilevitv2": {"width_multiplier": 0.25},
    "poolformer": {"hidden_sizes": [16, 32, 32, 32], "depths": [1] * 4},
    "pvt": {**_PYRAMID, "sequence_reduction_ratios": [2, 1], "patch_sizes": [4, 2]},
    "pvt_v2": {**_PYRAMID, "sr_ratios": [2, 1], "patch_sizes": [7, 3]},
    "regnet": {**_STAGES, "embedding_size": 16, "groups_width": 8},
    "resnet": {**_STAGES, "embedding_size": 16, "layer_type": "basic"},
    "roc_bert": {
        "pronunciation_vocab_size": 50,
        "shape_vocab_size": 50,
        "pronunciation_embed_dim": 16,
        "shape_embed_dim": 16,
    },
    "segformer": {**_PYRAMID, "sr_ratios": [2, 1], "patch_sizes": [7, 3]},
    "sew": {"conv_dim": (16,) * 13},
    "sew-d": {"conv_dim": (16,) * 13},
    "siglip": {"vision_config": _TOWER, "text_config": _TEXT_TOWER},
    "squeezebert": dict.fromkeys(
        ("q_groups", "k_groups", "v_groups", "post_attention_groups", "intermediate_groups", "output_groups"), 2
    ),
    "swiftformer": {"embed_dims": [16, 16, 32, 32], "depths": [1] * 4},
    "swin": _WINDOWS,
    "swinv2": _WINDOWS,
    "van": {**_STAGES, "strides": [4, 2], "patch_sizes": [7, 3], "mlp_ratios": [2, 2]},
    "xlnet": {"d_inner": 64},
}
#: Sides of pictures in pixels, where the architecture halves them too often for the usual one.
_SIDES: Final = dict.fromkeys(("efficientnet", "mobilevit", "mobilevitv2", "swiftformer"), 64)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One architecture with one task; `refused` is part of the message where it isn't exported."""

    architecture: str
    task: str
    refused: str = ""

    @property
    def id(self) -> str:
        """Its name in the test's."""
        return f"{self.architecture}-{self.task}"

    @property
    def nightly(self) -> bool:
        """Whether `make test` leaves it out: one that torch.export converts takes some ten seconds of CPU time."""
        if self.task in _DAILY:
            return self.architecture in _CAPTURED
        return self.architecture not in _DAILY_TEXTS and self.id not in _DAILY_ROWS


#: By task: the architectures that answer as transformers does, then those that are refused, with the reason.
_EXPORTED: Final = {
    "text-classification": (
        "albert arcee bert big_bird biogpt bloom camembert code_llama ctrl data2vec-text deberta deberta-v2 "
        "deepseek_v3 diffllama distilbert electra ernie ernie_m esm falcon flaubert gemma gemma2 gemma3_text glm "
        "gpt2 gpt_bigcode gpt_neo gpt_neox helium ibert llama megatron-bert mistral modernbert mpnet mpt mra "
        "nezha opt persimmon phi phi3 qwen2 qwen3 rembert roberta roberta-prelayernorm roc_bert roformer smollm3 "
        "squeezebert stablelm starcoder2 xlm xlm-roberta xlm-roberta-xl"
    ),
    "fill-mask": (
        "albert bert big_bird camembert data2vec-text deberta deberta-v2 distilbert electra ernie esm ibert "
        "megatron-bert mpnet mra nezha rembert roberta roberta-prelayernorm roc_bert roformer "
        "squeezebert xlm-roberta xlm-roberta-xl"
    ),
    "image-classification": (
        "beit bit clip convnext convnextv2 data2vec-vision deit dinov2 dinov2_with_registers efficientnet focalnet "
        "hiera ijepa mobilenet_v1 mobilenet_v2 mobilevit poolformer pvt_v2 regnet resnet segformer siglip "
        "swiftformer swin swinv2 van vit vit_msn"
    ),
    "audio-classification": (
        "audio-spectrogram-transformer data2vec-audio hubert unispeech unispeech-sat wav2vec2 wav2vec2-conformer wavlm"
    ),
    SPEECH: ("data2vec-audio hubert sew sew-d unispeech unispeech-sat wav2vec2 wav2vec2-conformer wavlm whisper"),
    REWRITING: "bart blenderbot blenderbot-small m2m_100 marian mbart mt5 pegasus plbart t5 umt5",
    "text-generation": (
        "apertus arcee bitnet bloom cohere cohere2 deepseek_v3 ernie4_5 exaone4 falcon gemma gemma2 "
        "gemma3_text glm glm4 gpt2 gpt_neo gpt_neox gpt_oss granite helium hunyuan_v1_dense llama mistral mpt "
        "nemotron olmo olmo2 olmo3 opt phi phi3 qwen2 qwen3 qwen3_moe seed_oss smollm3 stablelm starcoder2 "
        "vaultgemma"
    ),
}
_REFUSED: Final = {
    ("bart", "text-classification"): "the converted model can't answer",
    ("canine", "text-classification"): "can't convert this model to ONNX",
    ("convbert", "text-classification"): "among others",
    ("doge", "text-classification"): "can't convert this model to ONNX",
    ("fnet", "text-classification"): "unexpected keyword argument 'attention_mask'",
    ("funnel", "text-classification"): "can't convert this model to ONNX",
    ("longformer", "text-classification"): "can't convert this model to ONNX",
    ("mega", "text-classification"): "the converted model can't answer",
    ("mobilebert", "text-classification"): "among others",
    ("mt5", "text-classification"): "can't convert this model to ONNX",
    ("nystromformer", "text-classification"): "among others",
    ("xlnet", "text-classification"): "can't convert this model to ONNX",
    ("xmod", "text-classification"): "Input language unknown",
    ("yoso", "text-classification"): "among others",
    ("convbert", "fill-mask"): "among others",
    ("nystromformer", "fill-mask"): "among others",
    ("imagegpt", "image-classification"): "the model gives no answer for image-classification to pixel_values",
    ("mamba", "text-generation"): "keeps no cache of keys and values",
    ("gpt_bigcode", "text-generation"): "keeps no cache of keys and values",
    ("mixtral", "text-generation"): "optimum knows no mixtral",
    ("xglm", "text-generation"): "optimum knows no xglm",
    ("fsmt", REWRITING): "edgeml doesn't know its layers",
    ("longt5", REWRITING): "edgeml doesn't know its layers",
    ("prophetnet", REWRITING): "edgeml doesn't know its layers",
    ("switch_transformers", REWRITING): "edgeml doesn't know its layers",
    ("whisper", "audio-classification"): "the model gives no answer for audio-classification to input_features",
}
#: The tasks whose architectures convert fast: with `_DAILY_TEXTS` a third of all rows, which `make test` runs.
_DAILY: Final = ("image-classification", "audio-classification")
#: Architectures of pictures that torch.export converts; "bit" is the one by day.
_CAPTURED: Final = ("dinov2_with_registers", "focalnet", "ijepa", "pvt_v2", "siglip", "swiftformer", "van")
#: Architectures of texts by day, in each task that they have.
_DAILY_TEXTS: Final = (
    *("albert", "bert", "deberta", "electra", "esm", "gpt2", "gpt_neox", "llama", "modernbert"),
    *("mpnet", "opt", "qwen3", "squeezebert"),
)
_DAILY_ROWS: Final = (f"hubert-{SPEECH}", "distilbert-fill-mask", f"t5-{REWRITING}")
ROWS: Final = (
    *(Row(architecture=it, task=task) for task, named in _EXPORTED.items() for it in named.split()),
    *(Row(architecture=it, task=task, refused=reason) for (it, task), reason in _REFUSED.items()),
)


def build(architecture: str, task: str, folder: Path) -> None:
    """Write a model's folder."""
    if (architecture, task) == ("whisper", SPEECH):
        tiny_whisper.pretrained(folder, steps=0)
        return
    kind = CONFIG_MAPPING[architecture]
    known = inspect.signature(kind.__init__).parameters.keys()
    side = _SIDES.get(architecture, SIDE)
    words = {"vocab_size": len(LETTERS)} if task == SPEECH else {}
    sizes = _SMALL | {"image_size": side} | words | _OWN.get(architecture, {})
    config = kind(
        **{name: value for name, value in sizes.items() if name in known or name in _OWN.get(architecture, {})}
    )
    config.bos_token_id, config.pad_token_id, config.eos_token_id = 0, 1, 2
    config.architectures = []  # DeiT has two heads, of which the first is taken then
    if task.endswith("classification"):
        config.id2label, config.label2id = LABELS, {label: number for number, label in LABELS.items()}
    transformers.set_seed(0)
    model = _HEADS[task].from_config(config).eval()
    spread = 3 * SPREAD if task == REWRITING else SPREAD
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0, spread)
    if task == REWRITING:
        model.generation_config.update(**WRITTEN)
    model.save_pretrained(folder)
    if architecture == "marian":
        tiny_marian.tokenizer(folder, TOKENS).save_pretrained(folder)
    elif architecture == "m2m_100":
        tiny_marian.of_many_languages(folder, TOKENS).save_pretrained(folder, legacy_format=True)
        (folder / "tokenizer.json").unlink(missing_ok=True)  # transformers makes it of the others
    else:
        _preparation(architecture, task, side).save_pretrained(folder)
    if task == SPEECH:
        vocabulary = folder / "vocab.json"
        vocabulary.write_text(json.dumps({letter: number for number, letter in enumerate(LETTERS)}))
        transformers.Wav2Vec2CTCTokenizer(str(vocabulary)).save_pretrained(folder)


def _preparation(architecture: str, task: str, side: int) -> Any:
    if task == "image-classification":
        return transformers.ViTImageProcessor(size={"height": side, "width": side})
    if task in ("audio-classification", SPEECH):
        return breadth_models.extractor("ast" if architecture == "audio-spectrogram-transformer" else architecture)
    mask = {"mask_token": "<mask>"} if task == "fill-mask" else {}
    return breadth_models.tokenizer(TOKENS, model_input_names=["input_ids", "attention_mask"], **mask)

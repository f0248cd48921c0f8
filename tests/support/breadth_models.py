"""One tiny model of each family that edgeml exports, with random weights, saved as its library saves it.

Text models share one tokenizer, trained here on a few sentences. Each builder writes into a folder and returns what
`edgeml export` is given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from edgeml.check.sample_texts import SENTENCES
from support.scale import scaled

VOCABULARY: Final = 400
#: Steps of the series that the LSTM reads; each is unrolled in TFLite.
LSTM_STEPS: Final = scaled(50, 10)
LABELS: Final = {0: "red", 1: "green", 2: "blue"}
_SPECIAL: Final = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_SMALL: Final[dict[str, Any]] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    # A random model's scores differ too little at transformers' own spread to tell answers apart.
    "initializer_range": 0.2,
}
_TEXT: Final = _SMALL | {"vocab_size": VOCABULARY, "pad_token_id": 1, "max_position_embeddings": 160}
_RELATIVE: Final = {"type_vocab_size": 0, "relative_attention": True, "position_biased_input": False}

#: The configuration of each family.
CONFIGS: Final[dict[str, Callable[[], Any]]] = {
    "bert": lambda: transformers.BertConfig(**_TEXT),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=1, n_heads=2, hidden_dim=64, pad_token_id=1, initializer_range=0.2
    ),
    "roberta": lambda: transformers.RobertaConfig(**(_TEXT | {"type_vocab_size": 1, "max_position_embeddings": 162})),
    "deberta": lambda: transformers.DebertaConfig(**_TEXT, **_RELATIVE, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": lambda: transformers.DebertaV2Config(
        **_TEXT,
        **_RELATIVE,
        pos_att_type=["p2c", "c2p"],
        position_buckets=32,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
    ),
    "vit": lambda: transformers.ViTConfig(**_SMALL, image_size=32, patch_size=8),
    "resnet": lambda: transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic"
    ),
    "mobilenet-v2": lambda: transformers.MobileNetV2Config(image_size=32, depth_multiplier=0.25),
    "convnext": lambda: transformers.ConvNextConfig(
        num_stages=2, hidden_sizes=[16, 32], depths=[1, 1], patch_size=4, image_size=32
    ),
    "yolos": lambda: transformers.YolosConfig(
        **(_SMALL | {"num_hidden_layers": 2}), image_size=[64, 96], patch_size=16, num_detection_tokens=12
    ),
    "detr": lambda: transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=transformers.ResNetConfig(
            embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", out_features=["stage2"]
        ),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=12,
        init_std=0.2,
    ),
    "wav2vec2": lambda: transformers.Wav2Vec2Config(
        **_SMALL,
        conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=16,
    ),
    "ast": lambda: transformers.ASTConfig(**_SMALL, max_length=96, num_mel_bins=32),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=160,
        n_embd=32,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.2,
    ),
}
_HEADS: Final[dict[str, Any]] = {
    "text-classification": transformers.AutoModelForSequenceClassification,
    "token-classification": transformers.AutoModelForTokenClassification,
    "question-answering": transformers.AutoModelForQuestionAnswering,
    "feature-extraction": transformers.AutoModel,
    "image-classification": transformers.AutoModelForImageClassification,
    "object-detection": transformers.AutoModelForObjectDetection,
    "audio-classification": transformers.AutoModelForAudioClassification,
    "text-generation": transformers.AutoModelForCausalLM,
}


def pretrained(folder: Path, family: str, task: str, *, tokens: int = 160) -> str:
    """A transformers model's folder.

    Args:
        tokens: the most of a text.
    """
    transformers.set_seed(0)
    config = CONFIGS[family]()
    if task.endswith(("classification", "detection")):
        config.id2label = LABELS
    _HEADS[task].from_config(config).save_pretrained(folder)
    match task:
        case "image-classification":
            transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
        case "object-detection":
            detector_processor(family).save_pretrained(folder)
        case "audio-classification":
            extractor(family).save_pretrained(folder)
        case _:
            # DistilBERT's own tokenizer makes no third tensor, which the model wouldn't take.
            names = {"model_input_names": ["input_ids", "attention_mask"]} if family == "distilbert" else {}
            tokenizer(tokens, **names).save_pretrained(folder)
    return str(folder)


def detector_processor(family: str, **size: int) -> Any:
    """The image processor of a family of detectors; of one size where none is given."""
    kind = transformers.DetrImageProcessor if family == "detr" else transformers.YolosImageProcessor
    return kind(size=size or {"height": 64, "width": 96})


def extractor(family: str) -> Any:
    """The feature extractor of a family of sound."""
    if family == "ast":
        return transformers.ASTFeatureExtractor(max_length=96, num_mel_bins=32)
    return transformers.Wav2Vec2FeatureExtractor()


def tokenizer(tokens: int, **more: Any) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer that frames texts as RoBERTa's does, with `more` settings."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel()
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(SENTENCES, trainer)
    made.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True)
    names = {"cls_token": "<s>", "bos_token": "<s>", "sep_token": "</s>", "eos_token": "</s>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=tokens, pad_token="<pad>", unk_token="<unk>", **names, **more
    )


_FUNCTIONS: Final = """
import torch


class Last(torch.nn.Module):
    def forward(self, given):
        return given[0][:, -1]


def seeded(*layers):
    torch.manual_seed(0)
    return torch.nn.Sequential(*(layer() for layer in layers))


def lstm():
    nn = torch.nn
    model = seeded(lambda: nn.LSTM(6, 32, num_layers=2, batch_first=True), Last, lambda: nn.Linear(32, 3))
    return model, torch.sin(torch.linspace(0, 20, LSTM_STEPS * 6)).reshape(1, LSTM_STEPS, 6)


def cnn_1d():
    nn = torch.nn
    model = seeded(
        lambda: nn.Conv1d(3, 32, 5, padding=2), lambda: nn.BatchNorm1d(32), nn.ReLU, lambda: nn.MaxPool1d(2),
        lambda: nn.Conv1d(32, 32, 3), nn.ReLU, lambda: nn.AdaptiveAvgPool1d(1), nn.Flatten, lambda: nn.Linear(32, 3),
    )
    return model, torch.sin(torch.linspace(0, 20, 192)).reshape(1, 3, 64)


def mlp():
    nn = torch.nn
    layers = lambda: nn.Linear(8, 256), nn.ReLU, lambda: nn.Linear(256, 256), nn.ReLU, lambda: nn.Linear(256, 3)
    return seeded(*layers), torch.linspace(-1, 1, 8)[None]


def spectrum():
    class Spectrum(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x.reshape(-1, 2, 4))

    return Spectrum(), torch.linspace(-1, 1, 8)[None]


def forest():
    from sklearn.datasets import load_iris
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    flowers = load_iris()
    model = make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0))
    return model.fit(flowers.data, flowers.target_names[flowers.target]), flowers.data[::10]


def ridge():
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge

    rows, target = load_diabetes(return_X_y=True)
    return Ridge().fit(rows, target), rows[:5]
"""


def function(folder: Path, family: str, task: str) -> str:
    """`file.py:function` for a function of the file above."""
    del task
    folder.mkdir()
    (folder / "models.py").write_text(f"LSTM_STEPS = {LSTM_STEPS}\n{_FUNCTIONS}")
    return f"{folder / 'models.py'}:{family.replace('-', '_')}"


def program(folder: Path, family: str, task: str) -> str:
    """A `.pt2` file of a small network, its batch dimension dynamic."""
    del task
    folder.mkdir()
    torch.manual_seed(0)
    layers = (torch.nn.Conv1d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 4))
    batch = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(torch.nn.Sequential(*layers).eval(), (torch.randn(2, 3, 16),), dynamic_shapes=batch)
    path = folder / f"{family}.pt2"
    torch.export.save(exported, path)
    return str(path)


def onnx_file(folder: Path, family: str, task: str) -> str:
    """An `.onnx` file of a small network."""
    del task
    folder.mkdir()
    torch.manual_seed(0)
    path = folder / f"{family}.onnx"
    axes = {"input": {0: "batch"}, "output": {0: "batch"}}
    names = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": axes}
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()
    torch.onnx.export(module, (torch.randn(1, 64),), path, **names, opset_version=17, dynamo=False)
    return str(path)

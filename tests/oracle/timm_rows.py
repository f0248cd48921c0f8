"""Tiny models of timm's architectures with random weights, saved as timm saves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch

LABELS: Final = ("blue", "red", "green")
#: Pixels of a picture's side, for models that take any.
SIDE: Final = 64
#: The deviation of weights that timm begins with one number for all.
SPREAD: Final = 0.1


@dataclass(frozen=True)
class Row:
    """One architecture; the message of its refusal has `refused`."""

    architecture: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    preparation: Mapping[str, Any] = field(default_factory=dict)
    refused: str = ""

    @property
    def id(self) -> str:
        """The architecture, with a preparation or settings that it has beside another row."""
        usual = [(3, SIDE, SIDE), (3, 48, 48), (3, 56, 56)]
        changes = [f"{key}={value}" for key, value in self.preparation.items() if value not in usual]
        vectors = ["vectors"] if self.settings.get("num_classes") == 0 else []
        return " ".join([self.architecture, *vectors, *changes]).replace("'", "")


def _small(name: str, *, refused: str = "", side: int = SIDE, **settings: Any) -> Row:
    return Row(name, settings, {"input_size": (3, side, side)}, refused)


def _sized(name: str, *, refused: str = "", side: int = SIDE, **settings: Any) -> Row:
    return Row(name, {"img_size": side, **settings}, {}, refused)


def _prepared(refused: str = "", **preparation: Any) -> Row:
    return Row("test_resnet", {}, {"input_size": (3, 48, 48), **preparation}, refused)


_VIT: Final = {"embed_dim": 48, "depth": 2, "num_heads": 3}
_STAGES: Final = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
ROWS: Final = (
    *map(
        _small,
        (
            "test_resnet",
            "test_convnext",
            "test_efficientnet",
            "test_efficientnet_evos",
            "test_byobnet",
            "test_nfnet",
            "test_mambaout",
            "resnet10t",
            "mobilenetv2_035",
            "mobilenetv3_small_050",
            "tf_mobilenetv3_small_minimal_100",
            "mobilenetv4_conv_small_035",
            "efficientvit_b0",
            "regnetx_002",
            "skresnet18",
            "resnest14d",
            "dla46_c",
            "ese_vovnet19b_dw",
            "ghostnet_050",
            "mnasnet_small",
            "tinynet_e",
            "lcnet_035",
            "repvgg_a0",
            "mobileone_s0",
            "mobilevit_xxs",
            "edgenext_xx_small",
            "convnextv2_atto",
            "starnet_s1",
            "fastvit_t8",
            "repghostnet_050",
            "inception_next_atto",
            "hgnetv2_b0",
        ),
    ),
    _small("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)),
    _small("poolformer_s12"),
    _small("pvt_v2_b0", depths=(1, 1, 1, 1)),
    _small("xcit_nano_12_p16_224", depth=2),
    Row("test_vit"),
    Row("test_maxvit"),
    Row("test_coatnet"),
    Row("levit_128s"),
    Row("visformer_tiny"),
    Row("efficientvit_m0"),
    _sized("vit_tiny_patch16_224", **_VIT),
    _sized("deit_tiny_distilled_patch16_224", **_VIT),
    _sized("beit_base_patch16_224", **_VIT),
    _sized("cait_xxs24_224", **_VIT),
    _sized("eva02_tiny_patch14_224", side=56, **_VIT),
    _sized("resmlp_12_224"),
    _sized("gmlp_ti16_224"),
    _sized("swin_tiny_patch4_window7_224", window_size=4, **_STAGES),
    _sized("swinv2_tiny_window8_256", window_size=4, **_STAGES),
    Row("test_resnet", {"num_classes": 0}, {"input_size": (3, SIDE, SIDE)}),
    _sized("vit_tiny_patch16_224", num_classes=0, **_VIT),
    _prepared(crop_pct=1.0, interpolation="bilinear"),
    _prepared(crop_pct=0.875, interpolation="bicubic"),
    _prepared(crop_pct=0.9, interpolation="lanczos"),
    _prepared(crop_pct=0.95, interpolation="nearest"),
    _prepared(crop_pct=0.875, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    _prepared(crop_pct=0.9, crop_mode="squash"),
    _prepared(crop_pct=1.0, crop_mode="squash", interpolation="bicubic"),
    _prepared(refused="crop_mode = 'border'; center and squash are supported", crop_mode="border"),
    _prepared(refused="interpolation = 'hamming'", interpolation="hamming"),
    _prepared(refused="crop_pct = 1.2", crop_pct=1.2),
    Row("test_resnet", {}, {"input_size": (3, 48, 40), "crop_mode": "squash"}),
    Row("test_resnet", {}, {"input_size": (3, 48, 40)}, "input_size = (3, 48, 40)"),
    Row("test_resnet", {"in_chans": 1}, {"input_size": (1, 48, 48)}, "input_size = (1, 48, 48); 3 channels"),
)


def build(row: Row, folder: Path) -> None:
    """Save the row's model as timm saves it.

    Its head answers each picture otherwise. Weights that begin as one number, often 0, would hide the layers before.
    """
    import timm  # noqa: PLC0415 -- only the Python of support.timm_python has it

    torch.manual_seed(0)
    settings = {"num_classes": len(LABELS), **row.settings}
    model = timm.create_model(row.architecture, pretrained_cfg_overlay=dict(row.preparation), **settings)
    heads = model.get_classifier() if settings["num_classes"] else ()
    for head in heads if isinstance(heads, tuple) else (heads,):
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.numel() > 1 and tensor.min() == tensor.max():
            tensor.add_(torch.randn_like(tensor), alpha=SPREAD)
    names = {"label_names": list(LABELS)} if settings["num_classes"] else {}
    timm.models.save_for_hf(model, str(folder), model_config=names, safe_serialization=True)

"""What is written otherwise for LiteRT gives the same values as PyTorch and transformers do."""

from __future__ import annotations

from pathlib import Path

import litert_torch
import numpy as np
import pytest
import torch
import transformers
from ai_edge_litert.interpreter import Interpreter

from edgeml.exporters import tflite_forms
from edgeml.exporters.source import TorchModel
from edgeml.exporters.torch_session import Named

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 100,
}
FAMILIES = {
    "bert": transformers.BertConfig,
    "camembert": transformers.CamembertConfig,
    "roberta": transformers.RobertaConfig,
    "xlm-roberta": transformers.XLMRobertaConfig,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_of_one_row_masks_as_the_square_does(family: str) -> None:
    """Padding has no part in the answers, and they are those of the model as it is."""
    pretrained = transformers.AutoModel.from_config(FAMILIES[family](**SIZES)).eval()
    named = Named(pretrained, (), outputs=("last_hidden_state",), by_keyword=True)
    converted = tflite_forms.module(TorchModel(module=named, pretrained=pretrained))
    given = {"input_ids": torch.arange(5, 13)[None], "attention_mask": torch.tensor([[1] * 5 + [0] * 3])}
    assert converted is not named
    with torch.inference_mode():
        expected, got = (it(**given)["last_hidden_state"] for it in (named, converted))
        unmasked = named(**given | {"attention_mask": torch.ones(1, 8)})["last_hidden_state"]
    assert torch.allclose(got, expected, atol=1e-6)
    assert not torch.allclose(unmasked, expected, atol=1e-3)


@pytest.mark.parametrize("affine", [True, False])
def test_a_layer_norm_is_pytorch_s_own(affine: bool) -> None:
    """Over one dimension or two, with weights and without."""
    values = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0)) * 5 + 3
    for shape in ((8,), (3, 8)):
        weights = (torch.rand(shape), torch.rand(shape)) if affine else (None, None)
        expected = torch.nn.functional.layer_norm(values, shape, *weights, 1e-5)
        assert torch.allclose(tflite_forms.layer_norm(values, shape, *weights), expected, atol=1e-5)


def test_a_product_behind_a_norm_keeps_its_own_weights(tmp_path: Path) -> None:
    """The norm's scale isn't folded into them: the product reads what the norm has scaled."""
    norm, product = torch.nn.LayerNorm(8), torch.nn.Linear(8, 4)
    torch.nn.init.uniform_(norm.weight, 2, 3)
    model = torch.nn.Sequential(norm, product).eval()
    path = tmp_path / "model.tflite"
    litert_torch.convert(model, (torch.zeros(2, 8),)).export(str(path))
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    held = (it for it in interpreter.get_tensor_details() if list(it["shape"]) == [4, 8])
    weights = [interpreter.get_tensor(it["index"]) for it in held]
    assert any(np.array_equal(it, product.weight.detach().numpy()) for it in weights)

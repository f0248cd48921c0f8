"""Drawing the next token."""

import pytest

from edgeml_runtime.model import Model
from support.task_models import NAMES, writer


@pytest.mark.parametrize("temperature", [1e-310, 1e-250, 1e-46, 1e-39, 1e-6, 1e-3])
def test_nearly_no_temperature_takes_the_likeliest_token(unpack, temperature):
    """What float32 can't divide by is none."""
    bundle = unpack(lambda path: writer(path, (NAMES["text-generation"], "1.0", "x86-vnni")))
    model = Model.open(bundle.folder, bundle.manifest)
    request = {"prompt": "check the valve", "max_new_tokens": 4, "seed": 3}
    (cold,) = model.predict(model.parse(request))
    assert model.predict(model.parse(request | {"temperature": temperature})) == [cold]
    assert cold["tokens"] == 4

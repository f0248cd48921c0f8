"""A `.pt2` file that could run code is refused before torch reads it."""

import json
import zipfile

import pytest
import torch

from edgeml.exporters import exported_program
from edgeml_core.errors import UsageError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A program with a dynamic batch, as torch saves it."""
    path = tmp_path_factory.mktemp("program") / "line.pt2"
    batch = ({0: torch.export.Dim("batch")},)
    made = torch.export.export(torch.nn.Linear(4, 2).eval(), (torch.randn(3, 4),), dynamic_shapes=batch)
    torch.export.save(made, path)
    return path


def test_a_saved_program_is_loaded(saved):
    """Its batch is any, its width is not."""
    source = exported_program.load(saved, None)
    assert [(spec.name, spec.shape) for spec in source.signature.inputs] == [("input", (-1, 4))]
    assert [spec.shape for spec in source.signature.outputs] == [(-1, 2)]


def test_a_length_that_is_code_is_refused(saved, tmp_path):
    """Torch would evaluate it."""

    def spoil(name, data):
        if not name.endswith("model.json"):
            return data
        assert b"Symbol('" in data
        return json.dumps(spoilt(json.loads(data))).encode()

    def spoilt(value):
        if isinstance(value, dict):
            return {key: "exec(chr(49))" if key == "expr_str" else spoilt(it) for key, it in value.items()}
        return [spoilt(it) for it in value] if isinstance(value, list) else value

    assert refusal(copied(saved, tmp_path / "spoilt.pt2", spoil)).code == "model-unsafe"


@pytest.mark.parametrize("name", ["line/data/constants/custom_obj_0", "line/data/aotinductor/model/wrapper.so"])
def test_what_would_be_run_is_refused(name, saved, tmp_path):
    """Objects of one's own and compiled code."""
    path = copied(saved, tmp_path / "more.pt2", lambda _, data: data)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"anything")
    assert refusal(path).code == "model-unsafe"


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_program_is_said_so(content, tmp_path):
    """Whatever the file holds."""
    path = tmp_path / "broken.pt2"
    path.write_bytes(content)
    assert refusal(path).code == "model-unreadable"


def test_a_task_of_texts_is_refused(saved):
    """There is no tokenizer in it."""
    assert refusal(saved, "text-classification").code == "model-unsupported"


def refusal(path, task=None):
    with pytest.raises(UsageError) as caught:
        exported_program.load(path, task)
    return caught.value


def copied(path, to, change):
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(to, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return to

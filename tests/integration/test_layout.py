"""Two versions of one architecture have every weight at the same place, so that differences are small: both formats."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeml.pipeline.export import export
from edgeml.pipeline.request import Exported, ExportRequest
from edgeml_core import chunks
from edgeml_core.bundle import BundleReader

NET = '''
import torch


def net(steps):
    """A network with a convolution, norms, ties and equal biases, after some steps of training."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Flatten(),
        torch.nn.Linear(16 * 15 * 15, 128), torch.nn.LayerNorm(128), torch.nn.ReLU(),
        torch.nn.Linear(128, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    data = torch.Generator().manual_seed(1)
    for _ in range(steps):
        images, labels = torch.randn(8, 3, 32, 32, generator=data), torch.randint(10, (8,), generator=data)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval(), (torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)),)


def fresh():
    """As it was made, with equal scales and biases."""
    return net(0)


def before():
    return net(20)


def after():
    return net(24)
'''


class Quiet:
    """A progress that nobody watches."""

    def stage(self, name: str) -> None:
        """Nothing."""

    def rows(self, done: int, total: int) -> None:
        """Keep nothing."""

    def done(self, exported: Exported) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, bytes]]]:
    """The files of the bundles by function and format."""
    folder = tmp_path_factory.mktemp("layout")
    (folder / "net.py").write_text(NET)
    made = {}
    for function in ("fresh", "before", "after"):
        request = ExportRequest(
            model=f"{folder / 'net.py'}:{function}",
            name="net",
            version=function,
            targets=("rpi4",),
            formats=("onnx", "tflite"),
            output=folder / "out",
        )
        made[function] = {it.manifest.file_format: files(it.path) for it in export(request, Quiet())}
    return made


def files(path: Path) -> dict[str, bytes]:
    """What a bundle holds."""
    with path.open("rb") as source:
        reader = BundleReader(source)
        return {it.path: b"".join(reader.chunks(it)) for it in reader.manifest.files if it.path.startswith("model")}


# Before any training equal constants are one in a TFLite file, and its layout another.
@pytest.mark.parametrize(("file_format", "old"), [("onnx", "fresh"), ("onnx", "before"), ("tflite", "before")])
def test_a_retrained_model_has_its_weights_at_the_same_places(versions, file_format: str, old: str):
    """Files of one length; what differs are few bytes, which is not so where even one byte has moved."""
    before, after = versions[old][file_format], versions["after"][file_format]
    assert {path: len(content) for path, content in before.items()} == {
        path: len(content) for path, content in after.items()
    }
    whole = sum(len(chunks.to_wire(chunk)) for content in after.values() for chunk in chunks.split(content))
    pairs = [(before[path], content) for path, content in after.items()]
    sent = sum(len(difference) for pair in pairs for difference in differences(*pair))
    assert whole > 4 * chunks.CHUNK_BYTES
    assert sent < 0.3 * whole


def differences(old: bytes, new: bytes) -> list[bytes]:
    """What is sent of a file to who has another."""
    pieces = zip(chunks.split(old), chunks.split(new), strict=True)
    return [chunks.to_wire_from(before, after) for before, after in pieces if before != after]

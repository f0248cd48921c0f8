"""A secret model on its way over a real broker, with somebody listening to everything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from edgeml import repository
from edgeml_core import chunks, sealing
from edgeml_core.errors import RejectedError
from support.delivery_site import MODEL, Site, site, until
from support.tiny_models import tiny_onnx_bundle

GROUP: Final = "clinic"
WEIGHTS_BYTES: Final = 1024 * 1024


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Site]:
    """A fleet whose host runs; its device has no key yet."""
    with site(tmp_path) as made:
        made.start_host()
        yield made


def publish(made: Site, version: str, scale: float) -> None:
    """Release a version for the group."""
    path = made.folder / f"{MODEL}-{version}.edgeml"
    tiny_onnx_bundle(path, name=MODEL, version=version, scale=scale, weights_bytes=WEIGHTS_BYTES, seed=int(scale))
    repository.publish(made.repo, [path], group=GROUP)


def test_encrypted_release_reaches_the_group_only(made: Site):
    """Two versions arrive; every chunk on the wire is sealed, and none is named as the manifests name it."""
    give_key(made)
    made.start_agent()
    for version, scale in (("1.0", 2.0), ("2.0", 3.0)):
        publish(made, version, scale)
        made.deploy(version)
        made.observer.await_report(state="active", version=version)
    until(lambda: made.answers(31.0), "version 2.0 answers")
    published = {topic: payload for topic, payload in made.observer.heard if "/chunk/" in topic}
    manifests = b"".join(payload for _, payload in made.observer.heard if b'"chunks"' in payload)
    listed = {digest[:32] for digest in re.findall(rb"[0-9a-f]{64}", manifests)}
    assert len(published) > 2 * WEIGHTS_BYTES // chunks.CHUNK_BYTES
    for topic, payload in published.items():
        assert not listed & set(re.findall(rb"[0-9a-f]{32}", topic.encode()))
        assert sealing.is_sealed(payload) or payload[0] == 0x10
        with pytest.raises(RejectedError):
            chunks.from_store(payload, topic.rsplit("/", 1)[1])


def test_device_without_the_group_key_reports_it(made: Site):
    """Before it fetches a byte: the release is none for it."""
    made.start_agent()
    publish(made, "1.0", 2.0)
    made.deploy("1.0")
    made.observer.await_report(state="rolled back", version="1.0", code="group-key-missing")


def give_key(made: Site) -> None:
    """As enrolling with --group would have."""
    repository.enroll(made.repo, "other", labels={}, broker_url=None, groups=[GROUP], out_dir=made.folder / "other")
    (made.folder / "other" / "groups").rename(made.device / "groups")

"""Calls of an operator: what is refused before anything is sent, and what the audit log has of a call."""

from types import SimpleNamespace

import pytest

from edgeml.fleet import call as calling
from edgeml.fleet.device_calls import DeviceCalls
from edgeml.repository import layout
from edgeml.repository.releases import publish
from edgeml_core.calls import Refused, Reply, Reproduced
from edgeml_core.errors import DeviceError, EdgemlError, UsageError
from edgeml_core.messages import ModelState
from support.tiny_models import tiny_onnx_bundle

REPLY = Reply(id="1", reproduced=Reproduced(min_cosine=1.0, max_abs=0.0))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A repository with one release, and a device that has it; calls are kept in place of being sent."""
    folder = layout.init(tmp_path / "repo", secret="")
    bundle = tmp_path / "tiny.edgeml"
    tiny_onnx_bundle(bundle, name="tiny", version="1.0")
    (release,) = publish(folder.folder, [bundle])
    made = SimpleNamespace(folder=folder, release=release, sent=[], reply=REPLY, log_when_sent=[])
    made.models = {
        "barn-1": {
            "tiny": ModelState(version="1.0", state="active", target=release.target, format=release.format),
            "other": ModelState(version="9", state="active", target="rpi4", format="onnx"),
        },
        "new-1": {},
    }

    def ask(connection, device, asked, *, wait_s):
        made.sent.append((connection, device, asked.kind, asked.manifest_sha256))
        made.log_when_sent.append(folder.audit.entries()[-1].act)
        return made.reply

    monkeypatch.setattr(calling, "ask", ask)
    made.calls = DeviceCalls(folder, made.models.get, lambda: "connection")
    return made


def test_call_is_in_the_audit_log_before_it_is_sent(site):
    """With its kind and bundle; the log stays whole."""
    assert site.calls.ask("barn-1", "verify", model="tiny") == REPLY
    assert site.sent == [("connection", "barn-1", "verify", site.release.manifest_sha256)]
    entry = site.folder.audit.entries()[-1]
    assert (entry.act, entry.subject, entry.details["kind"]) == ("call", "barn-1", "verify")
    assert site.log_when_sent == ["call"]
    site.folder.check_audit()


def test_call_that_runs_no_bundle_needs_no_model(site):
    """Also on a device that has none."""
    site.calls.ask("new-1", "logs")
    assert site.sent == [("connection", "new-1", "logs", "")]


@pytest.mark.parametrize(
    ("device", "kind", "more", "code"),
    [
        ("nobody", "doctor", {}, "device-unknown"),
        ("barn-1", "bench", {}, "usage"),
        ("barn-1", "bench", {"model": "third"}, "usage"),
        ("barn-1", "bench", {"model": "other"}, "release-unknown"),
        ("barn-1", "restart", {"model": "tiny"}, "usage"),
        ("new-1", "verify", {}, "usage"),
        ("barn-1", "logs", {"lines": 501}, "usage"),
    ],
)
def test_wrong_call_is_neither_sent_nor_logged(site, device, kind, more, code):
    """The operator learns what to change."""
    before = len(site.folder.audit.entries())
    with pytest.raises(UsageError) as caught:
        site.calls.ask(device, kind, **more)
    assert caught.value.code == code
    assert (site.sent, len(site.folder.audit.entries())) == ([], before)


def test_error_of_the_device_names_it(site):
    """In place of a result."""
    site.reply = Reply(id="1", refused=Refused.of(DeviceError("device-busy", "it runs another", "repeat it")))
    with pytest.raises(EdgemlError, match="on barn-1: it runs another") as caught:
        site.calls.ask("barn-1", "restart")
    assert caught.value.code == "device-busy"

"""What holds for every input: encodings are faithful, and no damaged byte gets through."""

import contextlib
import io

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeml_core import chunks, delta, desired, manifest, messages, names
from edgeml_core.bundle import BundleReader
from edgeml_core.errors import RejectedError, UsageError
from edgeml_core.sealing import Seal
from support.samples import FILES, a_bundle

BUNDLE = a_bundle()
DIGEST = BundleReader(io.BytesIO(BUNDLE)).manifest_sha256


@given(st.integers(0, len(BUNDLE) - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_a_flipped_byte_of_a_bundle_is_refused_changes_its_identity_or_changes_nothing(at, flip):
    """A signature over the manifest therefore covers every byte that matters."""
    data = bytearray(BUNDLE)
    data[at] ^= flip
    try:
        reader = BundleReader(io.BytesIO(bytes(data)))
        content = {entry.path: reader.read(entry.path) for entry in reader.manifest.files}
    except RejectedError:
        return
    assert reader.manifest_sha256 != DIGEST or content == FILES


@given(st.binary(max_size=2 * chunks.CHUNK_BYTES))
def test_chunks_survive_the_wire(data):
    """Split, sent and joined is what it was."""
    back = [chunks.from_wire(chunks.to_wire(piece), chunks.sha256(piece)) for piece in chunks.split(data)]
    assert b"".join(back) == data


@given(st.binary(max_size=2000), st.data())
def test_differences_lead_from_any_base_to_any_chunk(base, data):
    """Of one length, sparse or dense; sent as what is shorter."""
    chunk = data.draw(st.binary(min_size=len(base), max_size=len(base)))
    assert delta.apply(base, *delta.diff(base, chunk)) == chunk
    assert chunks.from_wire(chunks.to_wire_from(base, chunk), chunks.sha256(chunk), base) == chunk


@given(st.binary(max_size=300), st.integers(0, 2**31), st.integers(1, 255))
def test_a_flipped_byte_of_a_chunk_is_refused(chunk, at, flip):
    """Or it decodes to the very same bytes."""
    payload = bytearray(chunks.to_wire(chunk))
    payload[at % len(payload)] ^= flip
    with contextlib.suppress(RejectedError):
        assert chunks.from_wire(bytes(payload), chunks.sha256(chunk)) == chunk


@given(st.binary(max_size=2000))
def test_no_decoder_raises_anything_but_our_errors(data):
    """Whatever arrives, the receiver sees a RejectedError at worst."""
    for decode in (
        manifest.decode,
        desired.decode,
        lambda payload: messages.decode(payload, messages.Want),
        lambda payload: messages.decode(payload, messages.DeviceState),
        lambda payload: messages.decode(payload, messages.Report),
        lambda payload: BundleReader(io.BytesIO(payload)),
        lambda payload: chunks.from_wire(payload, "0" * 64),
        lambda payload: chunks.from_wire(b"\x02" + payload, "0" * 64, bytes(500)),
        lambda payload: Seal(b"key").open(payload, "0" * 32),
    ):
        with contextlib.suppress(RejectedError):
            decode(data)


@given(st.text(max_size=80))
def test_names_never_escape(text):
    """Whatever is a name is safe in a path, a topic and a URL."""
    try:
        names.require_name(text, "name")
    except UsageError:
        return
    assert not set(text) & set("/\\.+#$ \0\n")


@given(st.text(max_size=120))
def test_safe_paths_stay_inside(path):
    """Whatever is a safe path has no part that leads out or hides."""
    if manifest.is_safe_path(path):
        assert all(part and not part.startswith((".", "-")) for part in path.split("/"))

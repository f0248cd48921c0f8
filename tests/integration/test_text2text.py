"""T5 from its folder to an answer over HTTP and MQTT: the text of transformers' own pipeline, in int8."""

import asyncio
import contextlib
from pathlib import Path

import pytest
import transformers
from tests.integration.test_mqtt_door import CLIENT, DEVICE, TOPICS, asking, door
from tests.integration.test_serving import server
from tests.support import breadth_models, brokers, cache, minilm, tiny_t5, tiny_whisper

from edgeml import inference
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core import golden as files
from edgeml_core.errors import GateFailed, UsageError
from edgeml_runtime.unpack import unpacked as opened

#: It is trained once and exported with all checks.
pytestmark = pytest.mark.nightly
PAIRS = tiny_t5.pairs()
SEVEN = PAIRS[7][0]


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """The folder of the tiny T5, and its bundle in int8; export has asked the oracle about the one in fp32."""
    program = [Path(it.__file__) for it in (tiny_t5, tiny_whisper, breadth_models)]
    with cache.kept("t5", lambda place: tiny_t5.pretrained(place / "t5"), program) as place:
        model = place / "t5"
    output = tmp_path_factory.mktemp("t5")
    (made,) = export(ExportRequest(model=str(model), targets=("x86-vnni",), formats=("onnx",), output=output))
    return model, minilm.read(made.path)


def test_every_number_is_translated_as_by_the_pipeline_in_int8(t5):
    """And rightly, in both directions; the card says that the pipeline searches beams."""
    model, bundle = t5
    card = bundle.manifest.card
    assert "dynamic" in card.recipe
    assert card.greedy
    assert card.greedy.tokens > len(PAIRS)
    assert any("searches 4 beams" in it for it in card.warnings)
    with opened(bundle.path) as inside:
        cases = files.decode((inside.folder / inside.manifest.golden.path).read_bytes())
    assert any(len(it.tokens or ()) > 1 for it in cases)
    found = [it["text"].strip() for it in inference.run(bundle.path, [{"text": text} for text, _ in PAIRS])]
    pipeline = transformers.pipeline("text2text-generation", model=str(model), device="cpu")
    theirs = [pipeline(text, num_beams=1)[0]["generated_text"].strip() for text, _ in PAIRS]
    assert found == theirs == [translation for _, translation in PAIRS]


def test_a_text_that_is_too_long_is_cut_and_reported(t5):
    """As for classifiers."""
    (found,) = inference.run(t5[1].path, {"text": " ".join([SEVEN] * 10)})
    assert found["truncated"]["read"] == 64 < found["truncated"]["tokens"]


def test_it_answers_over_http_and_mqtt(t5, tmp_path):
    """With the same text as by itself."""
    (expected,) = inference.run(t5[1].path, {"text": SEVEN})
    for name in ("tiny", "mood", "broker"):
        (tmp_path / name).mkdir()

    async def main():
        async with contextlib.AsyncExitStack() as stack:
            inside = stack.enter_context(opened(t5[1].path))
            models, client = await stack.enter_async_context(server())
            await models.activate("t5", inside.folder, inside.manifest)
            over_http = (await client.post("/v1/models/t5/predict", json={"text": SEVEN})).json()
            broker = stack.enter_context(brokers.mosquitto(tmp_path / "broker"))
            asker = await stack.enter_async_context(asking(broker.url))
            models = await stack.enter_async_context(door(broker.url, tmp_path))
            await models.activate("t5", inside.folder, inside.manifest)
            await asker.ask(TOPICS.infer(DEVICE, "t5", CLIENT), {"text": SEVEN})
            await asker.until(lambda: asker.said(TOPICS.answer(DEVICE, "t5")))
            return over_http, asker.said(TOPICS.answer(DEVICE, "t5"))[0]

    for answered in asyncio.run(main()):
        assert answered["outputs"] == [expected] == [{"text": expected["text"]}]


def test_tflite_is_refused_with_the_reason(t5, tmp_path):
    """Its shapes are fixed, and keys and values grow."""
    request = ExportRequest(model=str(t5[0]), targets=("x86-vnni",), formats=("tflite",), output=tmp_path / "out")
    with pytest.raises((UsageError, GateFailed), match="grow with every token"):
        export(request)


@pytest.mark.usefixtures("arm64")
def test_it_is_verified_on_the_cpus_of_a_pi_and_a_gateway(t5, tmp_path):
    """Emulated: golden outputs, and the tokens of later runs, in which the encoder has no tokens to read."""
    boards = {"rpi4": "Cortex-A72", "x86-gateway": "Haswell"}
    made = export(ExportRequest(model=str(t5[0]), targets=tuple(boards), formats=("onnx",), output=tmp_path / "out"))
    for bundle in made:
        card = bundle.manifest.card
        assert "dynamic" in card.recipe
        assert boards[bundle.manifest.target] in {it.cpu for it in card.verified if it.how == "emulated"}

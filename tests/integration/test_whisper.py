"""Whisper from its folder to OpenAI's path: the text of transformers' own pipeline, in int8, in two languages."""

import asyncio
from pathlib import Path

import pytest
import transformers
from tests.integration.test_serving import server
from tests.support import cache, minilm, sounds, tiny_whisper

from edgeml import inference
from edgeml.pipeline.export import export
from edgeml.pipeline.request import ExportRequest
from edgeml_core.errors import UsageError
from edgeml_runtime.unpack import unpacked as opened

#: It is trained once and exported with all checks.
pytestmark = pytest.mark.nightly
PATH = "/v1/audio/transcriptions"
#: Greedy: the pipeline itself searches five beams.
OPTIONS = {"num_beams": 1, "task": "transcribe", "max_new_tokens": tiny_whisper.TOKENS_MAX - 4}
SPOKEN = [*tiny_whisper.spoken()]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """The folder of the tiny Whisper, and its bundle in int8; export has asked the oracle about the one in fp32."""
    program = [Path(it.__file__) for it in (tiny_whisper, sounds)]
    with cache.kept("whisper", lambda place: tiny_whisper.pretrained(place / "whisper"), program) as place:
        model = place / "whisper"
    output = tmp_path_factory.mktemp("whisper")
    (made,) = export(ExportRequest(model=str(model), targets=("x86-vnni",), formats=("onnx",), output=output))
    return model, minilm.read(made.path)


@pytest.fixture(scope="module")
def pipeline(whisper):
    """The library's own."""
    return transformers.pipeline("automatic-speech-recognition", model=str(whisper[0]), device="cpu")


def theirs(pipeline, sound, **options):
    """The pipeline's text."""
    raw = {"raw": sound.copy(), "sampling_rate": sounds.SAMPLING_RATE_HZ}
    return pipeline(raw, generate_kwargs=OPTIONS | options)["text"]


def test_every_number_is_written_as_the_pipeline_does_in_int8(whisper, pipeline):
    """And rightly, with the language that was spoken; a requested language changes both in the same way."""
    _, bundle = whisper
    assert "dynamic" in bundle.manifest.card.recipe
    requests = [
        {"samples": sound.tolist(), "sampling_rate": sounds.SAMPLING_RATE_HZ, **named}
        for _, _, sound in SPOKEN
        for named in ({}, {"language": "de"})
    ]
    found = inference.run(bundle.path, requests)
    assert [it["text"] for it in found[::2]] == [theirs(pipeline, sound) for *_, sound in SPOKEN]
    assert [(it["language"], it["text"]) for it in found[::2]] == [(code, text) for code, text, _ in SPOKEN]
    assert [it["text"] for it in found[1::2]] == [theirs(pipeline, sound, language="de") for *_, sound in SPOKEN]


def test_a_language_that_the_model_does_not_know_is_refused(whisper):
    """With those that it knows."""
    request = {"samples": [0.1] * 800, "sampling_rate": sounds.SAMPLING_RATE_HZ, "language": "fr"}
    with pytest.raises(UsageError, match="'fr'") as caught:
        inference.run(whisper[1].path, request)
    assert "de, en" in caught.value.hint


def test_transcriptions_name_the_language_and_refuse_long_sounds(whisper):
    """Over HTTP: the language of the sound or of the request; a sound longer than the window isn't cut."""
    seven = sounds.wav(sounds.spoken("seven"))
    forms = (
        (seven, {"response_format": "verbose_json"}),
        (seven, {"response_format": "verbose_json", "language": "en"}),
        (seven, {"language": "fr"}),
        (sounds.wav(sounds.tone(2.5)), {}),
    )

    async def main():
        async with server() as (models, client):
            with opened(whisper[1].path) as inside:
                await models.activate("whisper", inside.folder, inside.manifest)
                return [
                    (await client.post(PATH, files={"file": file}, data={"model": "whisper"} | options)).json()
                    for file, options in forms
                ]

    found, named, unknown, long = asyncio.run(main())
    assert (found["text"], found["language"]) == (named["text"], named["language"]) == ("seven", "en")
    assert (unknown["error"]["param"], long["error"]["param"]) == ("language", "file")
    assert "takes 2.5 s, the model reads 2.0 s" in long["error"]["message"]

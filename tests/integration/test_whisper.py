"""Whisper from its folder to OpenAI's path: the text of transformers' own pipeline, in int8, in two languages."""

import asyncio

import pytest
from tests.integration.test_serving import server
from tests.support import sounds, tiny_whisper, transcribed

from edgeml import inference
from edgeml_core.errors import UsageError
from edgeml_runtime.unpack import unpacked as opened

#: It is trained once and exported with all checks.
pytestmark = pytest.mark.nightly
PATH = "/v1/audio/transcriptions"
SPOKEN = [*tiny_whisper.spoken()]


@pytest.fixture(scope="module")
def heard(whisper):
    """The library's own pipeline."""
    return transcribed.pipeline(whisper[0])


def test_every_number_is_written_as_the_pipeline_does_in_int8(whisper, heard):
    """And rightly, with the language that was spoken; a requested language changes both in the same way."""
    _, bundle = whisper
    assert "dynamic" in bundle.manifest.card.recipe
    requests = [
        {"samples": sound.tolist(), "sampling_rate": sounds.SAMPLING_RATE_HZ, **named}
        for _, _, sound in SPOKEN
        for named in ({}, {"language": "de"})
    ]
    found = inference.run(bundle.path, requests)
    assert [it["text"] for it in found[::2]] == [heard(sound) for *_, sound in SPOKEN]
    assert [(it["language"], it["text"]) for it in found[::2]] == [(code, text) for code, text, _ in SPOKEN]
    assert [it["text"] for it in found[1::2]] == [heard(sound, language="de") for *_, sound in SPOKEN]


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

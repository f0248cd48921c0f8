"""`/v1/audio/transcriptions` over real models: forms, options, what is refused, and transformers' own text."""

import asyncio
import io
import itertools

import msgspec
import numpy as np
import pytest
import soundfile
import soxr
from tests.integration.test_serving import TOKEN, server, unpacked
from tests.support import sounds, task_models, transcribed

from edgeml_agent.http_api.auth import Rules
from edgeml_runtime.unpack import unpacked as opened

PATH = "/v1/audio/transcriptions"
#: Half a second quiet, half a second loud.
SOUND = sounds.wav(np.repeat(np.float32([0.2, 0.9]), 8000))
TEXT = "quiet loud"
#: Texts and voices of espeak-ng.
SPOKEN = (("The pump in hall two has stopped.", "en-us"), ("Seven.", "en-gb+f3"))
LONG = sounds.wav(np.zeros(11 * sounds.SAMPLING_RATE_HZ, np.float32))


def ears(folder):
    """The tiny recognizer's files and manifest, which writes one word a token."""
    inside, manifest = unpacked(folder, task_models.bundle, task="automatic-speech-recognition")
    words = msgspec.structs.replace(manifest.postprocess, tokens=("<pad>", "|", "quiet ", "loud "))
    return inside, msgspec.structs.replace(manifest, postprocess=words)


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Send forms of a file and options to one server; the responses in turn."""
    folder = tmp_path_factory.mktemp("models")
    made = {"ears": ears(folder), "mood": unpacked(folder, task_models.bundle, task="text-classification")}

    def asked(*forms, **options):
        async def main():
            async with server(**options) as (models, client):
                for name, parts in made.items():
                    await models.activate(name, *parts)
                return [
                    await client.post(PATH, files={"file": ("a.wav", file)}, data={"model": "ears"} | more)
                    for file, more in forms
                ]

        return asyncio.run(main())

    return asked


def test_each_form_of_an_answer_has_the_text(ask):
    """JSON by default; verbose JSON names the request's language, or that it isn't known, and no times."""
    forms = ({}, {"response_format": "json"}, {"response_format": "text"}, {"response_format": "verbose_json"})
    named = {"response_format": "verbose_json", "language": "de", "temperature": "0.0", "prompt": "", "stream": "false"}
    plain, same, text, verbose, german = ask(*((SOUND, it) for it in (*forms, named)))
    assert plain.json() == same.json() == {"text": TEXT}
    assert (text.text, text.headers["content-type"]) == (TEXT, "text/plain; charset=utf-8")
    assert verbose.json() == {"task": "transcribe", "language": "und", "duration": 1.0, "text": TEXT}
    assert german.json()["language"] == "de"


#: File, options, the field at fault, and a part of the message.
REFUSED = (
    (SOUND, {"response_format": "srt"}, "response_format", "'srt' consists of times"),
    (SOUND, {"response_format": "vtt"}, "response_format", "'vtt' consists of times"),
    (SOUND, {"response_format": "xml"}, "response_format", "'xml'"),
    (SOUND, {"temperature": "0.5"}, "temperature", "0.5"),
    (SOUND, {"temperature": "warm"}, "temperature", "float"),
    (SOUND, {"prompt": "A song"}, "prompt", "not supported"),
    (SOUND, {"prompt": "a" * 5000}, "prompt", "5000 bytes"),
    (SOUND, {"stream": "true"}, "stream", "not supported"),
    (SOUND, {"timestamp_granularities[]": "word"}, "timestamp_granularities[]", "not supported"),
    (SOUND, {"include[]": "logprobs"}, "include[]", "not supported"),
    (SOUND, {"model": "mood"}, "model", "recognizes no speech"),
    (SOUND, {"model": ["ears", "ears"]}, "model", "twice"),
    (LONG, {}, "file", "takes 11.0 s, the model reads 10.0 s"),
    (b"no sound", {}, None, "it begins with b'no s'"),
    (b"ID3 no sound", {}, None, "the sound can't be read"),
)


def test_a_request_that_can_t_be_met_names_the_field(ask):
    """In OpenAI's form; nothing that would change the text is ignored, and no sound is cut."""
    responses = ask(*((file, options) for file, options, *_ in REFUSED))
    for response, (_, _, field, why) in zip(responses, REFUSED, strict=True):
        found = response.json()["error"]
        assert (response.status_code, found["param"], found["type"]) == (400, field, "invalid_request_error")
        assert why in found["message"]


def test_an_unknown_model_a_missing_part_and_another_body_are_refused(tmp_path):
    """With OpenAI's own statuses."""

    async def main():
        async with server() as (models, client):
            await models.activate("ears", *ears(tmp_path))
            file = {"file": ("a.wav", SOUND)}
            return [
                await client.post(PATH, files=file, data={"model": "other"}),
                await client.post(PATH, files=file),
                await client.post(PATH, files={"model": (None, "ears")}),
                await client.post(PATH, files=[("file", SOUND), ("file", SOUND)], data={"model": "ears"}),
                await client.post(PATH, json={"model": "ears"}),
                await client.get(PATH),
            ]

    responses = asyncio.run(main())
    found = [(it.status_code, it.json()["error"]["code"], it.json()["error"]["param"]) for it in responses]
    assert found == [
        (404, "model_not_found", None),
        (400, "input-invalid", "model"),
        (400, "input-invalid", "file"),
        (400, "input-invalid", "file"),
        (415, "content-unsupported", None),
        (405, "route-unknown", None),
    ]


def test_a_token_is_demanded_here_too(ask):
    """The gateway's checks come before the form is read."""
    (response,) = ask((b"no sound", {}), rules=Rules(token=TOKEN))
    assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")


def recorded(sound, rate_hz, form, subtype, channels):
    """A file in another form, and its samples in one channel at the model's rate."""
    held = io.BytesIO()
    soundfile.write(held, np.stack([sound] * channels, axis=1), rate_hz, format=form, subtype=subtype)
    file = held.getvalue()
    samples = soundfile.read(io.BytesIO(file), dtype="float32", always_2d=True)[0].mean(axis=1)
    return file, samples if rate_hz == 16_000 else soxr.resample(samples, rate_hz, 16_000)


#: Sampling rate, form, its kind of samples, channels.
FORMS = (
    (16_000, "WAV", "PCM_16", 1),
    (44_100, "WAV", "PCM_24", 2),
    (16_000, "WAV", "FLOAT", 1),
    (48_000, "FLAC", "PCM_24", 2),
    (48_000, "OGG", "OPUS", 1),
    (24_000, "MP3", "MPEG_LAYER_III", 2),
)


def test_speech_in_any_form_is_written_as_transformers_pipeline_does(recognizer):
    """The pipeline gets the same samples; both write what a model of random weights hears."""
    folder, bundle = recognizer
    files, expected, heard = [], [], transcribed.pipeline(folder)
    for (rate_hz, *form), (text, voice) in zip(
        FORMS, itertools.cycle(SPOKEN), strict=False
    ):  # the texts again and again
        file, samples = recorded(sounds.spoken(text, voice=voice, rate_hz=rate_hz), rate_hz, *form)
        files.append(file)
        expected.append(heard(samples))

    async def main():
        async with server() as (models, client):
            with opened(bundle.path) as inside:
                await models.activate("recognizer", inside.folder, inside.manifest)
                forms = [{"files": {"file": file}, "data": {"model": "recognizer"}} for file in files]
                return [(await client.post(PATH, **form)).json()["text"] for form in forms]

    found = asyncio.run(main())
    assert found == expected
    assert len(set(found)) > 1

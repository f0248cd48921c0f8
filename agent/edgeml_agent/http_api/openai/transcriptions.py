"""OpenAI's `/v1/audio/transcriptions`: a recording in a form, with options, to the text of its speech.

Source: openai-python 3.54, `types/audio`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, cast

import msgspec
from starlette.responses import PlainTextResponse, Response

from edgeml_agent.http_api import body as bodies
from edgeml_agent.http_api import responses, schemas
from edgeml_agent.http_api.openai import requests
from edgeml_agent.http_api.openai.errors import FieldError
from edgeml_agent.http_api.request import Request
from edgeml_core.errors import UsageError
from edgeml_core.manifest import Manifest
from edgeml_core.processing import AudioInput, DecodedTranscript, Transcript
from edgeml_runtime.encode import audio
from edgeml_runtime.generate.transcript import ENGLISH
from edgeml_runtime.model import Model
from edgeml_runtime.tasks import Answer, Audio, WrittenAnswer

#: The part of the form that holds the recording.
FILE_FIELD: Final = "file"
#: Bytes of an option in the form.
OPTION_MAX_BYTES: Final = 4096
#: ISO 639's code of a language that nobody has named.
UNDETERMINED: Final = "und"
ResponseForm = Literal["json", "text", "verbose_json"]
#: Forms that consist of times.
_TIMED: Final = ("srt", "vtt")


class TranscriptionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The options in a form of `/v1/audio/transcriptions`."""

    #: With the values that change nothing.
    unsupported: ClassVar[Mapping[str, tuple[object, ...]]] = {
        "chunking_strategy": (),
        "include[]": (),
        "known_speaker_names[]": (),
        "known_speaker_references[]": (),
        "prompt": ("",),
        "stream": ("false", "False"),
        "timestamp_granularities[]": (),
    }

    model: str
    language: Annotated[str, msgspec.Meta(max_length=32)] | None = None
    response_format: ResponseForm = "json"
    temperature: float = 0.0


@dataclass
class Recording:
    """A recording to transcribe, on its way through its model.

    Attributes:
        seconds: its length, once it has been read.
    """

    request: TranscriptionRequest
    content: bytes
    seconds: float = 0.0

    def items(self, model: Model) -> Sequence[Audio]:
        """Read the recording.

        Raises:
            FieldError: the model gives no transcript, doesn't know the language, or doesn't read all of the recording.
            UsageError: `input-invalid`, when it can't be read.
        """
        manifest = model.manifest
        gives_text = isinstance(manifest.postprocess, Transcript | DecodedTranscript)
        if not (gives_text and isinstance(manifest.preprocess, AudioInput)):
            raise FieldError("model", f"the model {manifest.name!r} recognizes no speech", "name one that does")
        sound = audio.read(self.content, manifest.preprocess.sampling_rate_hz)
        sound = msgspec.structs.replace(sound, language=self._language(manifest))
        self.seconds = sound.samples.size / sound.sampling_rate_hz
        read = audio.samples_max(manifest.preprocess) / manifest.preprocess.sampling_rate_hz
        if self.seconds > read:
            hint = "send a shorter one; /v1/models/NAME/predict reads its beginning and says so"
            raise FieldError(FILE_FIELD, f"the sound takes {self.seconds:.1f} s, the model reads {read:.1f} s", hint)
        return [sound]

    def _language(self, manifest: Manifest) -> str | None:
        """Return the requested language where the model depends on it."""
        spec, language = manifest.postprocess, self.request.language
        if not isinstance(spec, DecodedTranscript) or not language:
            return None
        known = spec.languages or (ENGLISH,)
        if language not in known:
            hint = f"leave it out, or send one of {', '.join(known)}"
            raise FieldError("language", f"the model doesn't know the language {language!r}", hint)
        return language

    def written(self, _: Model, answers: Sequence[Answer]) -> WrittenAnswer:
        """Return the text of the recording. A decoder's text begins with a space."""
        (answer,) = answers
        found = cast("WrittenAnswer", answer)
        return {**found, "text": found["text"].strip()}

    def response(self, found: WrittenAnswer) -> Response:
        """Make the response of the requested form."""
        text = found["text"]
        match self.request.response_format:
            case "text":
                return PlainTextResponse(text)
            case "verbose_json":
                verbose: schemas.VerboseTranscription = {
                    "task": "transcribe",
                    "language": found.get("language") or self.request.language or UNDETERMINED,
                    "duration": self.seconds,
                    "text": text,
                }
                return responses.json(verbose)
            case "json":
                plain: schemas.Transcription = {"text": text}
                return responses.json(plain)


def check_type(request: Request) -> None:
    """Check that a request brings a form.

    Raises:
        UsageError: `content-unsupported`.
    """
    if request.content_type != "multipart/form-data":
        message = f"a body of type {request.content_type!r} is not read"
        raise UsageError("content-unsupported", message, f"send a form with the parts {FILE_FIELD} and model")


def read(body: bytes, type_header: str) -> Recording:
    """Read a form.

    Raises:
        UsageError: `input-invalid`, when it is malformed.
        FieldError: an option can't be read or isn't supported, or there isn't one recording.
    """
    options: dict[str, str] = {}
    recordings = []
    for name, content in bodies.form(body, type_header):
        if name == FILE_FIELD:
            recordings.append(content)
        elif name in options:
            raise FieldError(name, f"the form has the part {name!r} twice", "send it once")
        else:
            options[name] = _text(name, content)
    if len(recordings) != 1:
        message = f"the form has {len(recordings)} parts {FILE_FIELD!r}"
        raise FieldError(FILE_FIELD, message, "send one sound file, for example by curl -F file=@FILE")
    return Recording(_request(options), recordings[0])


def _text(name: str, content: bytes) -> str:
    if len(content) > OPTION_MAX_BYTES:
        raise FieldError(name, f"the part {name!r} has {len(content)} bytes", f"send {OPTION_MAX_BYTES} at most")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise FieldError(name, f"the part {name!r} is not UTF-8: {error}", "encode it as UTF-8") from error


def _request(options: Mapping[str, str]) -> TranscriptionRequest:
    form = options.get("response_format")
    if form in _TIMED:
        message = f"the form {form!r} consists of times, and the model gives none"
        raise FieldError("response_format", message, "choose json, text or verbose_json")
    found = requests.convert(options, TranscriptionRequest, strict=False)
    if found.temperature != 0:
        message = f"a temperature of {found.temperature} is not supported"
        raise FieldError("temperature", message, "leave it out: the likeliest text is written")
    return found

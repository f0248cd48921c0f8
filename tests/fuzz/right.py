"""Right requests for each door and each tiny model: what `hostile` spoils. Every run begins with them."""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
from typing import Any, Final, NamedTuple

import numpy as np
import soundfile
from PIL import Image

from fuzz.request import AUTHORIZATION


class Right(NamedTuple):
    """A JSON body for a path; `tail` is what comes behind the JSON."""

    path: str
    value: Any
    tail: bytes = b""

    def asked(self) -> tuple[str, str, bytes, dict[str, str]]:
        """The request's method, path, body and headers."""
        head = json.dumps(self.value).encode()
        length = {"Inference-Header-Content-Length": str(len(head))} if self.tail else {}
        return "POST", self.path, head + self.tail, AUTHORIZATION | length


def _picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (16, 9), (200, 30, 30)).save(out, kind)
    return out.getvalue()


def sound(*, width: int = 2, channels: int = 1, rate_hz: int = 16_000) -> bytes:
    """A WAV file of some milliseconds."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate_hz)
        file.writeframes(bytes(range(256)) * 2 * width * channels)
    return out.getvalue()


def _encoded(form: str, subtype: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(2000) / 8), 24_000, format=form, subtype=subtype)
    return out.getvalue()


PICTURES: Final = tuple(_picture(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP"))
PICTURE: Final = PICTURES[0]
SOUND: Final = sound()
#: Of the forms that need libsndfile, at another rate than a model's.
SOUNDS: Final = (
    *(_encoded("WAV", "FLOAT"), _encoded("FLAC", "PCM_16"), _encoded("MP3", "MPEG_LAYER_III")),
    *(_encoded("OGG", "VORBIS"), _encoded("OGG", "OPUS")),
)
FORM: Final = (
    b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + PICTURE + b"\r\n--b--\r\n"
)
SPEECH_FORM: Final = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nears\r\n'
    b'--b\r\nContent-Disposition: form-data; name="response_format"\r\n\r\nverbose_json\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + SOUND + b"\r\n--b--\r\n"
)
_TEXT: Final = "its alarm sounded twice during the night shift"
_SAMPLED: Final = {
    "temperature": 0.5,
    "seed": 7,
    "top_p": 0.9,
    "top_k": 9,
    "min_p": 0.01,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
    "logit_bias": {"3": -5},
    "stop": ["pump"],
}
_CONTINUED: Final = {"max_new_tokens": 3, "logprobs": 2, **_SAMPLED}
_SAID: Final = [{"role": "user", "content": "what should i do ?"}]
#: What each model takes at the task door.
ITEMS: Final[dict[str, dict[str, Any]]] = {
    "mood": {"text": "quiet and works well"},
    "names": {"text": "Anna was in Berlin"},
    "meaning": {"text": "the cow is in the field"},
    "answers": {"question": "what sounded twice ?", "context": _TEXT},
    "writer": {"prompt": "water boils", **_CONTINUED},
    "nurse": {"messages": _SAID, **_CONTINUED},
    "colors": {"image": base64.b64encode(PICTURE).decode()},
    "finder": {"image": base64.b64encode(PICTURE).decode()},
    "noise": {"samples": [0.5, -0.5, 0.25, 0] * 100, "sampling_rate": 16_000},
    "line": {"inputs": {"x": [[1, 2, 3, 4]]}},
}


def _tensor(name: str, kind: str, shape: list[int], **data: Any) -> dict[str, Any]:
    return {"name": name, "datatype": kind, "shape": shape, **data}


def _binary(path: str, tensor: dict[str, Any], data: bytes, **others: Any) -> Right:
    sized = {**tensor, "parameters": {"binary_data_size": len(data)}}
    return Right(path, {"id": "7", "inputs": [sized], "parameters": {"binary_data_output": True}, **others}, data)


def _element(content: bytes) -> bytes:
    return struct.pack("<I", len(content)) + content


def _floats(*shape: int) -> bytes:
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).tobytes()


_INFER: Final = "/v2/models/{}/infer"
INFERENCES: Final = (
    Right(_INFER.format("line"), {"inputs": [_tensor("x", "FP32", [1, 4], data=[1, 2.5, 3, 4])]}),
    _binary(_INFER.format("line"), _tensor("x", "FP32", [2, 4]), _floats(2, 4)),
    _binary(
        "/v2/models/colors/versions/1.0/infer",
        _tensor("pixels", "FP32", [1, 3, 16, 16]),
        _floats(1, 3, 16, 16),
        outputs=[{"name": "scores", "parameters": {"classification": 2, "binary_data": True}}],
    ),
    _binary(_INFER.format("noise"), _tensor("samples", "FP32", [1, 400]), _floats(1, 400)),
    Right(
        _INFER.format("mood"),
        {"inputs": [_tensor("input_ids", "INT64", [1, 3], data=[2, 5, 3])], "parameters": {"timeout": 10**7}},
    ),
    Right(_INFER.format("meaning"), {"inputs": [_tensor("text", "BYTES", [2], data=["cow", "field"])]}),
    _binary(_INFER.format("mood"), _tensor("text", "BYTES", [2]), _element(b"works well") + _element(b"")),
    _binary(_INFER.format("colors"), _tensor("image", "BYTES", [1]), _element(PICTURE)),
    _binary(_INFER.format("noise"), _tensor("sound", "BYTES", [1]), _element(SOUND)),
    Right("/v2/repository/index", {"ready": True}),
    Right("/v2/repository/models/noise/unload", {"parameters": {"unload_dependents": False}}),
    Right("/v2/repository/models/noise/load", {}),
)
_TOKENS: Final = {"max_tokens": 3, "n": 2, "stream": False, **_SAMPLED}
_REPORTED: Final = {"logprobs": True, "top_logprobs": 2}
_STREAM: Final = {"stream": True, "stream_options": {"include_usage": True}}
OPENAI: Final = (
    Right("/v1/chat/completions", {"model": "nurse", "messages": _SAID, **_TOKENS}),
    Right("/v1/chat/completions", {"model": "nurse", "messages": _SAID, **_TOKENS, **_REPORTED, **_STREAM}),
    Right("/v1/completions", {"model": "writer", "prompt": "water boils", "logprobs": 2, **_TOKENS}),
    Right("/v1/completions", {"model": "writer", "prompt": ["water boils"], **_TOKENS, **_STREAM}),
    Right("/v1/embeddings", {"model": "meaning", "input": ["cow", "field"], "encoding_format": "base64"}),
)
REPLIES: Final = (
    Right("/chat", {"text": "what should i do ?"}),
    Right("/chat", {"text": "then", "model": "nurse", "history": [*_SAID, {"role": "assistant", "content": "x"}]}),
    Right("/chat", {"text": "then", **_CONTINUED}),
)
TASKS: Final = tuple(Right(f"/v1/models/{model}/predict", item) for model, item in ITEMS.items())
LISTS: Final = tuple(Right(right.path, [right.value, right.value]) for right in TASKS)
ALL: Final = (*TASKS, *LISTS, *INFERENCES, *OPENAI, *REPLIES)

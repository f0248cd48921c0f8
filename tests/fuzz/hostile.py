"""Hypothesis strategies for what an OpenAPI document can't say: bodies that lie, are broken, packed, cut or too deep.

`requests` makes whole requests for HTTP, `batches` those for MQTT: right ones with a little of them spoilt, so
that what is beside it is looked at, too.
"""

from __future__ import annotations

import copy
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st

from edgeml_agent.http_api.body import ASIDE_MIN_BYTES
from fuzz import right
from fuzz.request import AUTHORIZATION, Request
from fuzz.right import Right

#: Stands in a value for a token of `ODD_JSON`.
_ODD: Final = "\x7fodd"
#: As JSON writes them: no numbers, numbers that no float holds, halves of surrogate pairs, depth.
ODD_JSON: Final = (
    *("NaN", "-Infinity", "1e999", "-0", "9" * 25, "9" * 400, "9" * 5000, "0." + "9" * 400, "1E-400"),
    *(r'"\ud800"', r'"\udc00 a"', r'"\u0000"', '"\x01"', "[" * 70 + "]" * 70, "[" * 3000 + "]" * 3000),
    *('{"a":' * 600 + "1" + "}" * 600, "", "undefined", "[1,]", '{"a": 1, "a": 2}'),
)
#: Around the bounds of what integers, floats and shapes hold.
EDGES: Final = (
    *(2**n + d for n in (7, 8, 15, 31, 32, 62, 63, 64, 100) for d in (-1, 0)),
    *(-1, 0, 1, 3, -(2**31), -(2**63), 10**400, 1e308, 3.5e38, -3.5e38, 1e-310, 1e39, 0.1),
)
WORDS: Final = (
    *("", "x", "y", "input_ids", "scores", "BYTES", "BF16", "FP16", "BOOL", "INT64", "UINT8", "text", "\x00"),
    *("float", "base64", "user", "system", "assistant", "nobody", "writer", "\u00e9" * 9, "\U0001f400"),
    *("a" * 3000, "cow " * 400),
)
NESTED: Final = ([], {}, [[]], [None], [[1, 2], [3]], [0] * 300, ["a"] * 300, {"type": "text"}, [[[1.5]]], {"": {}})
SCALARS: Final = st.sampled_from((None, True, False, *EDGES, *WORDS)) | st.text(max_size=9) | st.floats(-2, 2)
VALUES: Final[st.SearchStrategy[Any]] = st.one_of(
    SCALARS,
    st.integers(0, len(ODD_JSON) - 1).map(lambda number: f"{_ODD}{number}"),
    st.sampled_from(NESTED).map(copy.deepcopy),
)
PATHS: Final = (
    *("/", "/v1/models", "/v2", "/metrics", "/openapi.json", "/page/models", "/health", "/page/page.js", "//", "*"),
    *("/v1/models/../../etc/passwd", "/page/%2e%2e/app.py", "/page/", "/v2/models/%00", "/v1/models/%ff"),
    *("/v2/health/ready/", "/v1/models/line?x=%00&x", "/v2/models/line/versions/1.0/stats", "/v2/models/stats"),
    "/" + "a" * 5000,
)
KINDS: Final = (
    *("application/json", "", "application/octet-stream", "image/png", "multipart/form-data; boundary=b"),
    *("text/plain", "application/json; charset=utf-16", "multipart/form-data", "image/svg+xml", ";", "a" * 2000),
    *('multipart/form-data; boundary=""', "multipart/form-data; boundary*=utf-8''b"),
    "multipart/form-data; boundary=\xe9",
)
HEADERS: Final = st.tuples(
    st.sampled_from(
        ("Accept-Encoding", "Origin", "Host", "If-None-Match", "Expect", "Accept", "Range", "Authorization", "Cookie")
    ),
    st.sampled_from(("gzip;q=0", "gzip, deflate", "*", "null", "http://[", "127.0.0.1", "bytes=0-", "Bearer \xe9", ""))
    | st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=9).map(str.strip),
)
#: Makes a body so long that it is read in a thread; JSON is as it was.
LONG: Final = b" " * ASIDE_MIN_BYTES
LENGTHS: Final = ("0", "1", "9" * 5000, "9" * 18, "9" * 19, "0x10", "1_0", "-1", "", "\xb2", "+5")


@st.composite
def changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """What was right, with some of it cut out, overwritten or grown."""
    made = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(made)))
        until = at + draw(st.sampled_from((0, 1, 1, 4, 30, len(made))))
        made[at:until] = draw(st.sampled_from((b"\xff" * 4, b"\0" * 4, b"\r\n", b"")) | st.binary(max_size=4))
    return bytes(made)


@st.composite
def spoilt(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value of which none, one or two parts have become something else."""
    whole = [copy.deepcopy(value)]
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 2)))):
        places = list(_places(whole))
        held, key = places[draw(st.integers(0, len(places) - 1))]
        how = draw(st.integers(0, 9))
        if how == 0 and isinstance(held, dict):
            del held[key]
        elif how == 1 and isinstance(held, dict):
            held[draw(st.sampled_from(WORDS))] = draw(VALUES)
        else:
            held[key] = draw(VALUES)
    return whole[0]


def _places(held: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a nested value, and of long lists the first few."""
    for key in list(held) if isinstance(held, dict) else range(min(len(held), 4)):
        yield held, key
        if isinstance(held[key], dict | list):
            yield from _places(held[key])


def written(value: Any) -> bytes:
    """A value as JSON, with its odd tokens."""
    text = json.dumps(value)
    for number, token in enumerate(ODD_JSON):
        text = text.replace(json.dumps(f"{_ODD}{number}"), token)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def _json(draw: st.DrawFn) -> Request:
    it: Right = draw(st.sampled_from(right.ALL))
    head, tail, headers = written(draw(spoilt(it.value))), it.tail, {}
    if draw(st.integers(0, 9)) == 0:
        head = draw(changed(head))
    if tail:
        tail = draw(st.just(tail) | st.just(tail) | changed(tail))
        length = draw(st.sampled_from((str(len(head)),) * 9 + (str(len(head) + 1), *LENGTHS)))
        headers = {"Inference-Header-Content-Length": length}
    elif draw(st.integers(0, 19)) == 0:
        headers = {"Content-Type": draw(st.sampled_from(KINDS))}
    return Request("POST", it.path, head + tail, headers)


@st.composite
def _files(draw: st.DrawFn) -> Request:
    form = draw(st.sampled_from((None, None, right.FORM, right.SPEECH_FORM)))
    kind = "multipart/form-data; boundary=b" if form else "image/png"
    kind = draw(st.sampled_from((kind,) * 20 + KINDS))
    whole = form or draw(st.sampled_from(right.PICTURES))
    body = draw(st.just(whole) | changed(whole) | changed(whole))
    model = draw(st.sampled_from(("colors",) * 5 + ("finder",) * 2 + ("noise", "line")))
    path = "/v1/audio/transcriptions" if form is right.SPEECH_FORM else f"/v1/models/{model}/predict"
    return Request("POST", path, body, {"Content-Type": kind})


@st.composite
def _anywhere(draw: st.DrawFn) -> Request:
    method = draw(st.sampled_from(("GET", "GET", "POST", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW")))
    named = st.text(max_size=9).map(lambda text: f"/v1/models/{quote(text.encode('utf-8', 'replace'), safe='')}")
    path = draw(st.sampled_from(PATHS) | named)
    return Request(method, path, written(draw(VALUES)), dict(draw(st.lists(HEADERS, max_size=2))))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Any request; some packed, rightly or wrongly, some in chunks, some with headers of somebody else's."""
    it = draw(st.sampled_from((_json(),) * 7 + (_files(), _files(), _anywhere())).flatmap(lambda kind: kind))
    headers, body, pieces = AUTHORIZATION | it.headers, it.body, ()
    match draw(st.integers(0, 19)):
        case 0 | 1:
            encoding, pack = draw(st.sampled_from((("gzip", gzip.compress), ("deflate", zlib.compress))))
            packed = pack(body)
            body = draw(st.just(packed) | changed(packed))
            headers["Content-Encoding"] = encoding
        case 2:
            headers["Content-Encoding"] = draw(st.sampled_from(("br", "identity", "gzip, gzip", "", "x" * 300)))
        case 3 | 4:
            pieces = tuple(sorted(draw(st.lists(st.integers(0, len(body)), min_size=1, max_size=4))))
        case 5:
            headers |= dict([draw(HEADERS)])
        case 6:
            body += LONG
        case _:
            pass
    return Request(it.method, it.path, body, headers, pieces)


class Message(NamedTuple):
    """One request over MQTT 5, and its properties; or a cancellation of an earlier one of its batch."""

    model: str
    payload: bytes
    reply_to: str | None
    correlation: bytes
    expires_s: int | None
    cancels: int | None = None


#: Where an asker may want its answer, which isn't everywhere where it goes.
REPLIES: Final = (
    *("edgeml/1/farm/client/a/board-1", "edgeml/1/farm/device/board-1/answer/x"),
    *("edgeml/1/farm/device/board-2/state", "edgeml/1/farm/client//board-1", "x" * 300, "\u00e9", "/", "$SYS/a"),
)
#: The id of requests that have one, by which they can be cancelled.
_ID: Final = 7
_LONG_TEXT: Final = {"messages": right.ITEMS["nurse"]["messages"], "max_new_tokens": 1024, "stream": True, "id": _ID}
#: A stream that is still written when its cancellation arrives.
_LONG: Final = Message("nurse", json.dumps(_LONG_TEXT).encode(), None, b"", None)


@st.composite
def batches(draw: st.DrawFn, size: int) -> list[Message]:
    """What models are asked over MQTT at a time; some requests are cancelled by a later message."""
    made = [draw(_messages())]
    while len(made) < size:
        if draw(st.integers(0, 4)):
            made.append(draw(_messages()))
        else:
            made += [_LONG] * draw(st.integers(0, 1))
            earlier = draw(st.sampled_from((len(made) - 1, 0)))
            payload = written(draw(spoilt({"id": _ID, "cancel": True})))
            made.append(Message(made[earlier].model, payload, None, b"", None, earlier))
    return made


@st.composite
def _messages(draw: st.DrawFn) -> Message:
    model = draw(st.sampled_from((*right.ITEMS, "nobody")))
    reply_to = draw(st.sampled_from((None,) * 20 + REPLIES))
    expires_s = draw(st.sampled_from((None, None, 60, 2**32 - 1)))
    payload = draw(_payloads(right.ITEMS.get(model, {})))
    return Message(model, payload, reply_to, draw(st.binary(max_size=9)), expires_s)


@st.composite
def _payloads(draw: st.DrawFn, item: dict[str, Any]) -> bytes:
    beside = {"id": _ID, "reply_to": REPLIES[0], "timeout_ms": 5000}
    if draw(st.integers(0, 1 if item.keys() & {"prompt", "messages"} else 4)) == 0:
        beside["stream"] = True
    match draw(st.integers(0, 9)):
        case 0:
            return draw(changed(draw(st.sampled_from((right.PICTURE, right.SOUND, b"works well")))))
        case 1:
            return draw(changed(written(item)))
        case 2 | 3:
            return written(draw(spoilt([item, item])))
        case 4 | 5:
            return written(draw(spoilt({"items": [item], **beside})))
        case _:
            return written(draw(spoilt({**item, **beside})))

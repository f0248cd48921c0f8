"""The session behind a socket and nothing else, the least that any server in Python adds: `bare_server.py PORT`.

It takes binary requests of the Open Inference Protocol and sends the output's bytes. It parses no HTTP beyond lengths,
checks, counts and bounds nothing, and serves one model.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Final

import numpy as np
import uvloop
from onnx_model import OnnxModel

_END: Final = b"\r\n\r\n"
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
_DTYPES: Final = {"FP32": np.float32, "INT64": np.int64}


class Bare(asyncio.Protocol):
    """One connection."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._received += data
        head, ended, body = self._received.partition(_END)
        if not ended or len(body) < _number(head, b"content-length"):
            return
        self._received = b""
        content = (
            b"" if head.startswith(b"GET") else self._answer(body, _number(head, b"inference-header-content-length"))
        )
        self._transport.write(_ANSWER % (len(content), content))

    def _answer(self, body: bytes, json_length: int) -> bytes:
        inputs, start = {}, json_length
        for tensor in json.loads(body[:json_length])["inputs"]:
            size = tensor["parameters"]["binary_data_size"]
            inputs[tensor["name"]] = np.frombuffer(body[start : start + size], _DTYPES[tensor["datatype"]]).reshape(
                tensor["shape"]
            )
            start += size
        (output,) = self._model.run(inputs).values()
        return b"{}" + output.tobytes()


def _number(head: bytes, name: bytes) -> int:
    lines = dict(line.lower().partition(b": ")[::2] for line in head.split(b"\r\n"))
    return int(lines.get(name, b"0"))


async def _serve(port: int) -> None:
    model = OnnxModel()
    listening = await asyncio.get_running_loop().create_server(lambda: Bare(model), "127.0.0.1", port)
    await listening.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))

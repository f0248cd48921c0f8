"""The programs' protocol: one request on stdin, one reply on stdout."""

import subprocess
import sys

import msgspec

PROGRAM = """
import os, sys
import msgspec
from edgeml_runtime import stdio

class Double(msgspec.Struct):
    number: int

def run(request):
    print("noise from Python")
    os.write(1, b"noise from C++")
    return Double(request.number * 2)

sys.exit(stdio.answer(Double, run))
"""


def run(request: bytes):
    return subprocess.run([sys.executable, "-c", PROGRAM], input=request, capture_output=True, check=False)


def test_answer_reply_is_alone_on_stdout():
    """Output of a runtime, from Python or C++, goes to stderr."""
    done = run(msgspec.msgpack.encode({"number": 21}))
    assert (done.returncode, msgspec.msgpack.decode(done.stdout)) == (0, {"number": 42})
    assert b"noise from C++" in done.stderr
    assert b"noise from Python" in done.stderr


def test_answer_malformed_request_gives_no_reply():
    """The exit code and an empty stdout report it; the cause is the end of stderr."""
    for request in (b"", b"\xc1", msgspec.msgpack.encode({"number": "many"})):
        done = run(request)
        assert (done.returncode != 0, done.stdout) == (True, b"")
        assert b"Error" in done.stderr

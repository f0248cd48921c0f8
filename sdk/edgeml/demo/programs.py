"""edgeml's own programs as child processes: what the demonstration shows is what a person would type.

Ctrl-C reaches them through us only, so that each is ended in order.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final

from edgeml_core.errors import DeviceError
from edgeml_io.aio import within

STOP_TIMEOUT_S: Final = 15.0
_EXCERPT_CHARS: Final = 600


async def finished(module: str, *arguments: str, tell: Callable[[str], None], temporary: Path) -> dict[str, Any]:
    """Run `python -m module arguments --json` to its end.

    Args:
        temporary: where it and its libraries put temporary files.
        tell: is told each step that the program tells.

    Returns:
        The last object that it prints.

    Raises:
        DeviceError: with the program's own code and words, when it fails.
    """
    answer: dict[str, Any] = {}
    async with _started(module, *arguments, "--json", stdout=PIPE, stderr=DEVNULL, TMPDIR=str(temporary)) as process:
        assert process.stdout is not None  # noqa: S101 - asked for above
        async for line in process.stdout:
            answer = json.loads(line)
            if "stage" in answer:
                tell(f"  {answer['stage']}")
        code = await process.wait()
    if code != 0:
        error = {"code": "internal", "message": f"{module} failed: {code}", "hint": ""} | answer.get("error", {})
        raise DeviceError(error["code"], error["message"], error["hint"])
    return answer


@asynccontextmanager
async def running(log: Path, module: str, *arguments: str, **environment: str) -> AsyncIterator[None]:
    """Run `python -m module arguments` for as long as the block lasts; what it says goes to `log`.

    Raises:
        DeviceError: `runtime-failed`, at the end of the block, when it ended by itself: with its last words.
    """
    with log.open("wb") as output:
        async with _started(module, *arguments, stdout=output, stderr=output, **environment) as process:
            yield
            ended_early = process.returncode is not None
    if ended_early:
        words = await asyncio.to_thread(log.read_text)
        raise DeviceError("runtime-failed", f"{module} ended: {words[-_EXCERPT_CHARS:]}")


@asynccontextmanager
async def _started(
    module: str,
    *arguments: str,
    stdout: int | IO[bytes],
    stderr: int | IO[bytes],
    **environment: str,
) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await within(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                process.kill()
                await process.wait()

"""The parsers of bytes from elsewhere: by changed right inputs, and, where atheris is, guided by the lines reached."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest
from hypothesis import strategies as st

from fuzz import campaign, driving, hostile, parsers
from fuzz.parsers import PARSERS, Parser

PART: Final = "parsers"
#: It has wheels for x86 only: elsewhere hypothesis makes all inputs.
HAS_ATHERIS: Final = importlib.util.find_spec("atheris") is not None
#: Of this part's inputs.
GUIDED_SHARE: Final = 0.9 if HAS_ATHERIS else 0.0
GUIDED: Final = int(campaign.inputs(PART) * GUIDED_SHARE)


@pytest.mark.parametrize("parser", PARSERS.values(), ids=PARSERS)
def test_changed_inputs_are_read_or_refused(parser: Parser) -> None:
    """By errors of our own only, and in time; what was changed is read."""
    for data in parser.right:
        parser.read(data)
    count = (campaign.inputs(PART) - GUIDED) // len(PARSERS)
    driving.each(st.sampled_from(parser.right).flatmap(hostile.changed), count, lambda data: _hold(parser, data))


def _hold(parser: Parser, data: bytes) -> None:
    begun_s = time.perf_counter()
    parser.parse(data)
    took_s = time.perf_counter() - begun_s
    campaign.part(PART).count("changed", took_s, repr(data[:20]))
    assert took_s <= parsers.PARSE_MAX_S


if HAS_ATHERIS:

    def test_guided_inputs_are_read_or_refused(tmp_path: Path) -> None:
        """In a process of its own, with all parsers."""
        for number, parser in enumerate(PARSERS.values()):
            for index, data in enumerate(parser.right):
                (tmp_path / f"{number}-{index}").write_bytes(parsers.chosen(number, data))
        guided = [sys.executable, Path(__file__).with_name("guided.py"), str(GUIDED), str(campaign.SEED), tmp_path]
        # The shell forks once more: a process begins with the peak memory of the one that it was forked from.
        program = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *guided]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(program, capture_output=True, text=True, env=environment, errors="replace", check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        (inputs,) = re.findall(r"number_of_executed_units: (\d+)", done.stderr)
        (lines,) = re.findall(r"#\d+\s+DONE\s+cov: (\d+)", done.stderr)
        campaign.part(PART).count_all(f"guided, {lines} branches reached", int(inputs))
        assert int(inputs) >= GUIDED

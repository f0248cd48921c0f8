"""Unmodified clients of other people's making against the real server; docs/compatibility.md is what came of it.

Each program in tests/clients uses one library, in an environment that has no edgeml. With EDGEML_WRITE_DOCS=1 the page
is written instead of checked.
"""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from tests.integration.test_openai import embedding
from tests.integration.test_serving import server, unpacked
from tests.support import sounds, tiny_models, tiny_recognizer, tiny_whisper, transcribed

from edgeml_runtime.unpack import unpacked as opened

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients/bin/python"
FOLDER = ROOT / "tests/clients"
PAGE = ROOT / "docs/compatibility.md"
#: What uses tensors; clients of OpenAI's API need other models.
PROGRAMS = ("triton_sync", "triton_aio", "kserve_rest")
OPENAI_PROGRAMS = (
    "openai_rest",
    "openai_speech",
    "litellm_rest",
    "langchain_openai_rest",
    "llm_cli",
    "openai_node.mjs",
    "vercel_ai.mjs",
)
LIBRARIES = {"tritonclient", "kserve", "openai", "litellm", "langchain-openai", "llm", "ai"}
TIMEOUT_S = 120
NOT_SERVED = """## Not served

- LangChain's `OpenAIEmbeddings` sends by default the token ids of OpenAI's own tokenizer. Ids don't tell their
  tokenizer, and mean other words to the served model. They are refused with the remedy:
  `check_embedding_ctx_length=False`.
- `/v1/responses` stores nothing: `previous_response_id` and references to items are refused. Vercel's `ai` refers to
  its own earlier answers unless `providerOptions: { openai: { store: false } }` is set. Pictures, files and
  tools other than functions are refused by name.
- `/v1/audio/transcriptions` gives no times (`srt`, `vtt`, segments, words), takes no prompt and streams nothing. WAV
  files at the model's sampling rate need no further package. Other rates, FLAC, OGG and MP3 need the extra `sound`.
- Triton's extensions for tracing, shared memory and logging.
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, chatting, calling, recognizer):
    """What came of each call of each program."""
    is_made = PYTHON.exists() and (FOLDER / "node_modules").exists()
    assert is_made, "the clients' environment is missing: run `make test`, which makes it"
    folder, speech = tmp_path_factory.mktemp("clients"), tmp_path_factory.mktemp("speech")
    heard = transcribed.pipeline(recognizer[0])
    for name, text in (("pump.wav", "The pump in hall two has stopped."), ("seven.mp3", "Seven.")):
        transcribed.record(speech / "recognizer" / name, sounds.spoken(text), heard)

    async def main():
        found = []
        async with server() as (models, client):
            await models.activate("tiny", *unpacked(folder))
            await models.activate("mood", *unpacked(folder, tiny_models.tiny_text_bundle))
            for program in PROGRAMS:
                found += await run(program, str(client.base_url))
            await models.activate("meaning", *embedding(folder))
            with (
                opened(chatting[1].path) as chat,
                opened(calling[1].path) as calls,
                opened(recognizer[1].path) as recognizing,
            ):
                await models.activate("chat", chat.folder, chat.manifest)
                await models.activate("calls", calls.folder, calls.manifest)
                await models.activate("recognizer", recognizing.folder, recognizing.manifest)
                for program in OPENAI_PROGRAMS:
                    found += await run(program, str(client.base_url), SPEECH=str(speech))
        return found

    return asyncio.run(main())


async def run(program, url, **more):
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), **more}
    command = ("node", FOLDER / program) if program.endswith(".mjs") else (PYTHON, "-m", f"clients.{program}")
    running = await asyncio.create_subprocess_exec(*command, url, stdout=-1, stderr=sys.stderr, env=environment)
    async with asyncio.timeout(TIMEOUT_S):
        printed, _ = await running.communicate()
    assert running.returncode == 0, f"{program} ended with {running.returncode}"
    return [json.loads(line) for line in printed.splitlines() if line.startswith(b'{"library"')]


def test_every_call_of_every_client_passes(outcomes):
    """A library's own checks, and what its user would look at."""
    assert {it["library"].split()[0] for it in outcomes} == LIBRARIES
    assert [it for it in outcomes if it["problem"]] == []


# 30 s of CPU time: both are trained and exported with all checks.
@pytest.mark.nightly
def test_openai_s_client_gets_the_texts_of_trained_recognizers_in_int8(whisper, spelling, tmp_path):
    """Each number as transformers' pipeline of the fp32 folder writes it, and rightly; Whisper in two languages."""
    heard = {name: transcribed.pipeline(made[0]) for name, made in {"whisper": whisper, "spelling": spelling}.items()}
    for language, text, sound in tiny_whisper.spoken():
        file = tmp_path / "whisper" / f"{language}-{text}.flac"
        assert transcribed.record(file, sound, heard["whisper"], language) == text
    for text in tiny_recognizer.TEXTS:
        file = tmp_path / "spelling" / f"{text}.wav"
        assert transcribed.record(file, sounds.spoken(text, voice="en"), heard["spelling"]) == text.upper()
    assert all("dynamic" in made.manifest.card.recipe for _, made in (whisper, spelling))

    async def main():
        async with server() as (models, client):
            await models.activate("mood", *unpacked(tmp_path, tiny_models.tiny_text_bundle))
            with opened(whisper[1].path) as writing, opened(spelling[1].path) as spelled:
                await models.activate("whisper", writing.folder, writing.manifest)
                await models.activate("spelling", spelled.folder, spelled.manifest)
                return await run("openai_speech", str(client.base_url), SPEECH=str(tmp_path))

    assert [it["problem"] for it in asyncio.run(main())] == [""]


def test_the_page_of_compatibility_is_thisrun(outcomes):
    """Run `make docs` after changing the programs or the versions; the section of brokers is written by hand."""
    clients, heading, brokers = PAGE.read_text().partition("\n## Brokers\n")
    if os.environ.get("EDGEML_WRITE_DOCS"):
        PAGE.write_text(_page(outcomes) + heading + brokers)
    else:
        assert clients == _page(outcomes)


def _page(outcomes):
    rows = "".join(f"| {it['library']} | {it['call']} | {'no' if it['problem'] else 'yes'} |\n" for it in outcomes)
    return (
        "<!-- Generated by tests/integration/test_clients.py: run `make docs`. -->\n\n# Compatibility\n\n"
        "Clients of other people's making, unmodified, against the agent's server; the programs are in `tests/clients`."
        f"\n\n| client | call | passes |\n|---|---|---|\n{rows}\n{NOT_SERVED}"
    )

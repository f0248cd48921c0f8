"""What the command `llm` does with a model of extra-openai-models.yaml."""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from clients.calls import Calls

calls = Calls(f"llm {version('llm')}")
ANSWER = "In hall two, on the left."


def prompt(url, *arguments):
    """The text that the command prints."""
    with tempfile.TemporaryDirectory() as folder:
        chat = {"model_id": "board", "model_name": "chat", "api_base": f"{url}/v1"}
        (Path(folder) / "extra-openai-models.yaml").write_text(json.dumps([chat]))
        environment = os.environ | {"LLM_USER_PATH": folder, "OPENAI_API_KEY": "none"}
        command = [sys.executable, "-m", "llm", "-m", "board", "-o", "temperature", "0", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@calls.call("a prompt as a stream, and whole with a system's message")
def prompts(url):
    assert prompt(url, "Where is the valve?") == ANSWER
    assert prompt(url, "--no-stream", "--system", "Be brief.", "When did it stop?") == "At a quarter past five."


if __name__ == "__main__":
    calls.run()

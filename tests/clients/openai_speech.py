"""What openai's client does with recordings: folders of SPEECH are models, with files and what they hear in them."""

import json
import os
from importlib.metadata import version
from pathlib import Path

import openai
from openai import OpenAI

from clients.calls import Calls, raised

calls = Calls(f"openai {version('openai')}")


@calls.call("transcriptions of speech: JSON, text, verbose JSON, what isn't done")
def transcriptions(url):
    asking = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0).audio.transcriptions
    files = [it for it in sorted(Path(os.environ["SPEECH"]).glob("*/*")) if it.suffix in (".flac", ".mp3", ".wav")]
    assert files
    for file in files:
        expected, asked = json.loads(file.with_suffix(".json").read_text()), {"model": file.parent.name, "file": file}
        assert asking.create(**asked).text == expected["text"]
        assert asking.create(response_format="text", language="en", temperature=0, **asked) == expected["english"]
        verbose = asking.create(response_format="verbose_json", **asked)
        assert (verbose.text, verbose.language) == (expected["text"], expected["language"])
        assert 0.3 < verbose.duration < 5
        for field, value in {"response_format": "srt", "prompt": "A song", "temperature": 1, "stream": True}.items():
            with raised(openai.BadRequestError, param=field):
                asking.create(**{field: value}, **asked)
    with raised(openai.BadRequestError, param="model"):
        asking.create(model="mood", file=files[0])


if __name__ == "__main__":
    calls.run()

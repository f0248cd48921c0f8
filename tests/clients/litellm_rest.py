"""What litellm does with a server that it is told to be OpenAI's."""

import os
from importlib.metadata import version

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices when it is imported

import litellm

from clients.calls import Calls, refused

calls = Calls(f"litellm {version('litellm')}")
QUESTION = [{"role": "user", "content": "Where is the valve?"}]
ANSWER = "In hall two, on the left."


def asked(url, **options):
    """The options of every call."""
    return {"api_base": f"{url}/v1", "api_key": "none", **options}


@calls.call("completion (a chat), whole and as a stream")
def completion(url):
    options = asked(url, model="openai/chat", messages=QUESTION, temperature=0)
    assert litellm.completion(**options).choices[0].message.content == ANSWER
    pieces = list(litellm.completion(stream=True, **options))
    assert "".join(it.choices[0].delta.content or "" for it in pieces) == ANSWER
    assert pieces[-1].choices[0].finish_reason == "stop"


@calls.call("text completion")
def text_completion(url):
    options = asked(url, model="text-completion-openai/chat", prompt="Water boils at", temperature=0, max_tokens=30)
    assert litellm.text_completion(**options).choices[0].text == " one hundred degrees."


@calls.call("responses, whole and as a stream")
def responses(url):
    options = asked(url, model="openai/chat", input="Where is the valve?", temperature=0)
    assert litellm.responses(**options).output[0].content[0].text == ANSWER
    events = list(litellm.responses(stream=True, **options))
    assert "".join(it.delta for it in events if it.type == "response.output_text.delta") == ANSWER
    assert events[-1].type == "response.completed"


@calls.call("embedding")
def embedding(url):
    made = litellm.embedding(**asked(url, model="openai/meaning", input=["good film", "bad"]))
    assert [len(it["embedding"]) for it in made.data] == [2, 2]


@calls.call("errors: unknown model, what isn't done")
def errors(url):
    with refused("no model 'other'"):
        litellm.completion(**asked(url, model="openai/other", messages=QUESTION, num_retries=0))
    with refused("at `$.n`"):
        litellm.completion(**asked(url, model="openai/chat", messages=QUESTION, n=9, num_retries=0))


if __name__ == "__main__":
    calls.run()

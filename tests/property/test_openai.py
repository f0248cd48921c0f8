"""What holds for every text and every request: nothing is lost in pieces, nothing that clients send breaks the door."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from edgeml_agent.http_api.openai import requests
from edgeml_agent.http_api.openai.requests import ChatRequest, CompletionRequest, EmbeddingsRequest
from edgeml_agent.http_api.openai.responses import ResponsesRequest
from edgeml_core.errors import UsageError
from edgeml_runtime.generate.detokenizer import Detokenizer
from edgeml_runtime.inputs import check_bounds

TOKENIZER = Tokenizer(models.BPE({f"<0x{byte:02X}>": byte for byte in range(256)}, [], byte_fallback=True))
TOKENIZER.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
#: Few letters, so that stops come often; some of several bytes.
TEXTS = st.text(st.sampled_from("abc€ü"), max_size=30)
STOPS = st.lists(st.text(st.sampled_from("abc€"), min_size=1, max_size=4), max_size=3)


@given(TEXTS, TEXTS, STOPS)
def test_pieces_are_the_text_before_its_first_stop(prompt, text, stops):
    """Every piece is final: together they are a beginning of the text that holds no stop, and all of it without one."""
    detokenizer = Detokenizer(TOKENIZER.decode, list(prompt.encode()), stops)
    pieces = []
    for byte in text.encode():
        pieces.append(detokenizer.add(byte))
        if detokenizer.stopped:
            break
    written = "".join(pieces) + detokenizer.rest()
    assert not any(stop in written for stop in stops)
    assert text.startswith(written)
    assert detokenizer.stopped == any(stop in text for stop in stops)
    assert detokenizer.stopped or written == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda held: st.lists(held, max_size=3) | st.dictionaries(st.text(max_size=5), held, max_size=3),
    max_leaves=6,
)
FIELDS = ("model", "prompt", "messages", "input", "stop", "seed", "max_tokens", "temperature", "stream_options", "n")
FIELDS += ("logit_bias", "logprobs", "top_logprobs", "response_format", "text", "top_k", "min_p", "include")
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.text(max_size=3), "content": JSON}), max_size=3)


@given(MESSAGES, st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4))
@example([{"role": "user", "content": "a"}], {"seed": -(2**63)})
def test_a_request_is_items_or_refused(messages, fields):
    """Whatever its fields hold, it is our own error or something that the runtime takes."""
    body = json.dumps({"model": "m", "prompt": "p", "messages": messages, "input": "i"} | fields).encode()
    for kind in (ChatRequest, CompletionRequest, ResponsesRequest, EmbeddingsRequest):
        try:
            asked = requests.parse(body, kind)
            items = asked.items() if kind is EmbeddingsRequest else [asked.item()]
        except UsageError:
            continue
        for item in items:
            check_bounds(item)


@given(st.binary(max_size=60))
def test_a_body_of_any_bytes_is_refused(body):
    """None is a request, since a request names a model."""
    with pytest.raises(UsageError):
        requests.parse(body, ChatRequest)

"""Tools in chat templates as plain data: prompts equal to those of transformers, for any conversation."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.integration.test_chat_template import saved

from edgeml.exporters.huggingface import chat_template
from edgeml.exporters.huggingface.tool_template import Inexpressible
from edgeml_core.errors import UsageError
from edgeml_runtime.generate.options import ToolCall
from edgeml_runtime.generate.tools import render
from edgeml_runtime.tasks import CallingMessage, Message, ResultMessage
from support.tool_templates import INEXPRESSIBLE, TEMPLATES, WITHOUT

STOPS = ["<|im_end|>", "</s>"]
#: Conversations and tools for each template.
EXAMPLES = 60
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Of a city", "parameters": CITY}}
CALLS = CallingMessage("assistant", "", calls=(ToolCall("abcdefghi", "weather", {"city": "Bodø"}),))
TURN = [Message("user", "Where?"), CALLS, ResultMessage("tool", '{"sun": 3}', call_id="abcdefghi")]

texts = st.text(st.sampled_from("ab Zöß\n\t\"'\\{}<>%/|[]語"), max_size=12)
names = st.from_regex("[a-zA-Z0-9_-]{1,8}", fullmatch=True)
ids = st.from_regex("[a-zA-Z0-9]{9}", fullmatch=True)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
objects = st.dictionaries(texts, values, max_size=3)
functions = st.fixed_dictionaries({"name": names}, optional={"description": texts, "parameters": objects})
tools = st.lists(functions.map(lambda it: {"type": "function", "function": it}), min_size=1, max_size=3)
calls = st.lists(st.builds(ToolCall, ids, names, objects), min_size=1, max_size=2).map(tuple)
messages = {
    "user": st.builds(Message, st.just("user"), texts),
    "assistant": st.builds(Message, st.just("assistant"), texts),
    "calls": st.builds(CallingMessage, st.just("assistant"), st.just("") | texts, calls=calls),
    "tool": st.builds(ResultMessage, st.just("tool"), texts, call_id=ids),
}
followers = {"user": ["assistant", "calls"], "assistant": ["user"], "calls": ["tool"], "tool": [*messages]}


@st.composite
def conversations(draw):
    """A conversation that ends where the model answers."""
    made = [draw(st.builds(Message, st.just("system"), texts))] if draw(st.booleans()) else []
    kind = "user"
    while True:
        made.append(draw(messages[kind]))
        if len(made) > 8 or (kind in {"user", "tool"} and draw(st.booleans())):
            return made
        kind = draw(st.sampled_from(followers[kind]))


def as_openai(message):
    """A message as a client sends it, with the arguments as an object, as transformers wants them."""
    made = {"role": message.role, "content": message.content}
    if isinstance(message, CallingMessage):
        functions = [(it.id, {"name": it.name, "arguments": it.arguments}) for it in message.calls]
        made["tool_calls"] = [{"id": key, "type": "function", "function": it} for key, it in functions]
    if isinstance(message, ResultMessage):
        made["tool_call_id"] = message.call_id
    return made


def derived(folder, template):
    """What renders by transformers, and the data."""
    theirs, ours = saved(folder, template)
    found = chat_template.with_tools(folder, ours, chat_template.read(folder, ours), STOPS)
    return theirs, ours, found.tools


@pytest.mark.parametrize("name", TEMPLATES)
def test_tools_are_written_as_transformers_writes_them(name, tmp_path):
    """Any conversation that the data doesn't refuse, any tools; the usual ones are not refused."""
    theirs, ours, found = derived(tmp_path, TEMPLATES[name])
    usual = [TURN[:1], TURN, [*TURN, Message("assistant", "Sunny."), Message("user", "And there?")], TURN + TURN[1:]]
    if name != "mistral":
        usual.append([Message("system", "Be brief."), *TURN])
    for conversation in usual:
        given_messages = [as_openai(it) for it in conversation]
        expected = theirs.apply_chat_template(given_messages, tools=[TOOL], add_generation_prompt=True)
        assert ours.encode(render(conversation, [TOOL], found), add_special_tokens=False).ids == expected

    @settings(max_examples=EXAMPLES, derandomize=True, database=None)
    @given(conversations(), tools)
    def check(conversation, some):
        try:
            text = render(conversation, some, found)
        except UsageError:
            return
        given_messages = [as_openai(it) for it in conversation]
        expected = theirs.apply_chat_template(given_messages, tools=some, tokenize=False, add_generation_prompt=True)
        assert text == expected

    check()


@pytest.mark.parametrize(
    ("name", "opening", "marker"),
    [
        ("qwen", '<tool_call>\n{"name": "', "<tool_call>"),
        ("hermes", '<tool_call>\n{"name":"', "<tool_call>"),
        ("llama", '{"name": "', ""),
        ("mistral", '[TOOL_CALLS] [{"name": "', "[TOOL_CALLS]"),
        ("devstral", "[TOOL_CALLS]", "[TOOL_CALLS]"),
    ],
)
def test_the_text_that_begins_a_call_is_found(name, opening, marker, tmp_path):
    """Answers are parsed by it."""
    *_, found = derived(tmp_path, TEMPLATES[name])
    assert (found.call.opening, found.call.marker) == (opening, marker)


def test_a_template_without_tools_has_none(tmp_path):
    """Bundles of it are the same as before, so that earlier agents take them."""
    *_, found = derived(tmp_path, WITHOUT)
    assert found is msgspec.UNSET


@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_tools_that_data_cannot_express_raise_the_reason(name, tmp_path):
    """Rather no tools than a wrong prompt."""
    template, why = INEXPRESSIBLE[name]
    with pytest.raises(Inexpressible, match=why):
        derived(tmp_path, template)


def test_an_id_of_another_form_is_refused(tmp_path):
    """Where the template writes ids: it would refuse that one, or the model has seen none."""
    *_, found = derived(tmp_path, TEMPLATES["mistral"])
    calls = msgspec.structs.replace(CALLS, calls=(ToolCall("call_1", "weather", {}),))
    with pytest.raises(UsageError, match="'call_1' is not 9 letters and digits"):
        render([TURN[0], calls, TURN[2]], [TOOL], found)


@pytest.mark.parametrize(
    ("conversation", "why"),
    [
        ([], "no message"),
        ([TURN[1]], "calls of tools can't come first"),
        ([TURN[0], TURN[2]], "a tool's result can't come after a message of the role 'user'"),
        (TURN[:2], "the last message is calls of tools"),
        ([TURN[0], Message("system", "Late.")], "role 'system' can't come after"),
        ([Message("critic", "No.")], "role 'critic'"),
    ],
)
def test_an_order_that_the_template_was_not_compared_in_is_refused(conversation, why, tmp_path):
    """The hint says which ones there are."""
    *_, found = derived(tmp_path, TEMPLATES["qwen"])
    with pytest.raises(UsageError, match=why):
        render(conversation, [TOOL], found)

"""Answers that call tools: their form under random logits, and calls parsed out of any text."""

import json
import os
import sys

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from edgeml_core.processing import ChatTemplate
from edgeml_core.tool_template import CallForm, ToolForm, ToolTemplate
from edgeml_runtime.generate.calling import Calling
from edgeml_runtime.generate.constraint import Constraints
from edgeml_runtime.generate.logprobs import TokenTexts
from edgeml_runtime.generate.options import Continuation, ToolError, Tools
from edgeml_runtime.generate.sampling import Sampler
from edgeml_runtime.generate.tool_calls import CallReader

SEEDS = 1000 if os.environ.get("EDGEML_NIGHTLY") == "1" else 100
QWEN = CallForm(
    opening='<tool_call>\n{"name": "',
    marker="<tool_call>",
    middle='", "arguments": ',
    ending="}\n</tool_call>",
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
)
LLAMA = CallForm(opening='{"name": "', marker="", middle='", "parameters": ', ending="}")
MISTRAL = CallForm(
    opening='[TOOL_CALLS] [{"name": "',
    marker="[TOOL_CALLS]",
    middle='", "arguments": ',
    ending='"}]',
    between='"}, {"name": "',
    before_id=', "id": "',
)
DEVSTRAL = CallForm(opening="[TOOL_CALLS]", marker="[TOOL_CALLS]", middle="[ARGS]", ending="", between="[TOOL_CALLS]")
FORMS = {"qwen": QWEN, "llama": LLAMA, "mistral": MISTRAL, "devstral": DEVSTRAL}


def tool(name, **properties):
    """A function whose arguments are all required."""
    schema = {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


PUMP = tool("read_pump", pump={"type": "integer", "minimum": 0, "maximum": 99}, unit={"enum": ["C", "F"]})
STOP = tool("stop")


def tools(choice="auto", *, several=True, strict=False, given=(PUMP, STOP), names=None):
    """Both tools, or those with names."""
    callable_names = names or tuple(it["function"]["name"] for it in given)
    return Tools(given=given, callable=callable_names, choice=choice, several=several, strict=strict)


def tokenizer():
    """Byte-level, with the marks of calls as added tokens, of which only Mistral's are special."""
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), '{"', '":', '",', "Ġ{", "pump", "name", "}}", '"}', ">Ċ"]
    made = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>", "<|user|>", "[TOOL_CALLS]"])
    made.add_tokens(
        [AddedToken(it, special=False, normalized=False) for it in ("<tool_call>", "</tool_call>", "[ARGS]")]
    )
    return made


TOKENIZER = tokenizer()
END = TOKENIZER.token_to_id("<|end|>")
CONSTRAINTS = Constraints(TOKENIZER, (END,))


def calling(form):
    """The calls of a model with that form."""
    template = ToolTemplate(between={}, tool=ToolForm(), call=form)
    return Calling(ChatTemplate(between={}, tools=template), TOKENIZER)


def written(form, wanted, seed, likely=None):
    """Text and calls of an answer from random logits; None where it isn't complete. One token may be more likely."""
    model = calling(form)
    guide = model.guide(wanted, CONSTRAINTS)
    answer = model.answer(wanted, [], (), at_once=guide is not None)
    options = Continuation(max_new_tokens=300, temperature=1.0, seed=seed)
    sampler = Sampler(options, (), TokenTexts(TOKENIZER), guide)
    random, text, calls = np.random.default_rng(seed), "", []
    for _ in range(options.max_new_tokens):
        logits = random.standard_normal(TOKENIZER.get_vocab_size()).astype(np.float32) * 3
        logits[END] += 4
        if likely is not None:
            logits[likely] += 8
        drawn = sampler.draw(logits)
        text += "" if drawn.token == END else answer.add(drawn.token)
        last = drawn.token == END or drawn.is_last or answer.stopped
        text += answer.rest() if last else ""
        calls += answer.take_calls()
        if last:
            return text, joined(calls)
    return None


def joined(deltas):
    """Name and arguments of each call."""
    found = []
    for it in deltas:
        if it.name is not None:
            found.append([it.name, ""])
        found[it.index][1] += it.arguments
    return found


def fits(name, arguments):
    """Whether the arguments are those of the function, by hand."""
    value = json.loads(arguments)
    if name == "stop":
        return value == {}
    return (
        name == "read_pump"
        and list(value) == ["pump", "unit"]
        and type(value["pump"]) is int
        and 0 <= value["pump"] <= 99
        and value["unit"] in {"C", "F"}
        and arguments == json.dumps(value)
    )


@pytest.mark.parametrize("form", FORMS)
def test_random_logits_call_the_named_function_with_arguments_of_its_schema(form):
    """Every answer of every seed, in the white space of the template."""
    for seed in range(SEEDS if form == "qwen" else SEEDS // 4):
        text, ((name, arguments),) = written(FORMS[form], tools("required", several=False, names=("read_pump",)), seed)
        assert (text, name) == ("", "read_pump")
        assert fits(name, arguments)


@pytest.mark.parametrize("form", FORMS)
def test_random_logits_write_a_text_or_calls(form):
    """By the model's own choice: both happen, no call is malformed, no text has a call's beginning."""
    marker = TOKENIZER.token_to_id(FORMS[form].marker) if FORMS[form].marker else TOKENIZER.token_to_id('{"')
    answers = [written(FORMS[form], tools(), seed, likely=marker if seed % 2 else None) for seed in range(24)]
    complete = [it for it in answers if it]
    called = [it for it in complete if it[1]]
    assert all(fits(*call) for _, calls in called for call in calls)
    assert all(FORMS[form].opening not in text for text, _ in complete)
    assert len(complete) - len(called) > 3
    assert len(called) > 3 or not FORMS[form].marker


@pytest.mark.parametrize("form", FORMS)
def test_random_logits_call_nothing_where_none_is_chosen(form):
    """The form of the answer forbids it."""
    marker = TOKENIZER.token_to_id(FORMS[form].marker or '{"')
    model = calling(FORMS[form])
    guide = model.guide(tools("none"), CONSTRAINTS)
    if FORMS[form].marker:
        assert not guide.allowed(TOKENIZER.get_vocab_size())[marker]
    else:
        refused = [t for t in TOKENIZER.encode(LLAMA.opening).ids if not guide.allowed(400)[t] or guide.advance(t)]
        assert refused


def pieces(form, text, wanted, size, *, at_once=False):
    """Text and calls of an answer that is read in pieces of that size."""
    reader, shown, calls = CallReader(form, wanted, at_once=at_once), "", []
    for start in range(0, len(text), size):
        new, more = reader.add(text[start : start + size])
        shown, calls = shown + new, [*calls, *more]
        if reader.complete:
            break
    return shown + reader.rest(), joined(calls)


ARGUMENTS = '{"text": "a \\" } ] {", "list": [{"b": {}}, "\\\\"]}'
STOPPED = f'<tool_call>\n{{"name": "stop", "arguments": {ARGUMENTS}}}\n</tool_call>'


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (QWEN, "No tool < is <tool needed.\n", ("No tool < is <tool needed.\n", [])),
        (QWEN, STOPPED, ("", [["stop", ARGUMENTS]])),
        (QWEN, f"Let me see.\n\n{STOPPED}\n", ("Let me see.", [["stop", ARGUMENTS]])),
        (QWEN, f"{STOPPED}\n{STOPPED}", ("", [["stop", ARGUMENTS]] * 2)),
        (QWEN, f"{STOPPED}\nDone.", ("", [["stop", ARGUMENTS]])),
        (QWEN, '<tool_call>{"name":"stop","arguments":{}}</tool_call>', ("", [["stop", "{}"]])),
        (QWEN, '<tool_call>\n{ "name" : "stop" , "arguments" : { } }', ("", [["stop", "{ }"]])),
        (QWEN, '<tool_call>\n{"name": "other", "arguments": {}}', None),
        (QWEN, '<tool_call>\n{"function": "stop"}\n</tool_call>', None),
        (LLAMA, ' {"name": "stop", "parameters": {"a": 1}}', ("", [["stop", '{"a": 1}']])),
        (LLAMA, '{"names": ["stop"]}', None),
        (LLAMA, 'Call {"name": "stop", "parameters": {}}', None),
        (MISTRAL, '[TOOL_CALLS] [{"name": "stop", "arguments": {}, "id": "abc"}]', ("", [["stop", "{}"]])),
        (
            MISTRAL,
            '[TOOL_CALLS][{"name": "stop", "arguments": {}}, {"name": "read_pump", "arguments": {"pump": 1}}]',
            ("", [["stop", "{}"], ["read_pump", '{"pump": 1}']]),
        ),
        (DEVSTRAL, 'Yes.[TOOL_CALLS]stop[ARGS]{"a": 1}', ("Yes.", [["stop", '{"a": 1}']])),
        (QWEN, "", ("", [])),
    ],
)
def test_an_answer_is_split_into_text_and_calls(form, text, expected, at_once, size):
    """The same in any pieces; an answer that is no call stays a text as a whole."""
    assert pieces(form, text, tools(), size, at_once=at_once) == (expected or (text, []))


@pytest.mark.parametrize("size", [1, 1000])
def test_arguments_that_are_no_json_are_text(size):
    """Where nothing constrains the answer; cut ones, too."""
    for text in (
        '<tool_call>\n{"name": "stop", "arguments": {"a": }}\n</tool_call>',
        '<tool_call>\n{"name": "stop", "arguments": {"a": 1',
        '<tool_call>\n{"name": "stop", "arguments": [1]}\n</tool_call>',
    ):
        assert pieces(QWEN, text, tools(), size) == (text, [])


def test_cut_arguments_of_a_certain_form_are_those_written():
    """As OpenAI's API gives them, with `length` as the reason."""
    begun = STOPPED.index(ARGUMENTS)
    text = STOPPED[: begun + 9]
    assert pieces(QWEN, text, tools(), 4, at_once=True) == ("", [["stop", text[begun:]]])


def test_the_first_call_is_the_last_one_where_several_are_not_allowed():
    """Nothing behind it is waited for."""
    reader = CallReader(QWEN, tools(several=False), at_once=False)
    reader.add(STOPPED[: STOPPED.index("]}}") + 2])
    assert reader.complete
    assert pieces(QWEN, f"{STOPPED}\n{STOPPED}", tools(several=False), 5) == ("", [["stop", ARGUMENTS]])


def test_schemas_that_cannot_constrain_are_refused_where_they_must(monkeypatch):
    """By a required call or `strict`; else the answer is free, and parsed."""
    odd = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "not": {}}}}
    model = calling(QWEN)
    assert model.guide(tools(given=(odd,)), CONSTRAINTS) is None
    for wanted in (tools("required", given=(odd,)), tools(strict=True, given=(odd,))):
        with pytest.raises(ToolError):
            model.guide(wanted, CONSTRAINTS)
    text = {"type": "function", "function": {"name": "odd", "parameters": {"type": "string"}}}
    with pytest.raises(ToolError, match="aren't those of an object"):
        model.guide(tools("required", given=(text,)), CONSTRAINTS)
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert model.guide(tools(), CONSTRAINTS) is None
    with pytest.raises(ToolError, match="not installed"):
        model.guide(tools("required"), CONSTRAINTS)


def test_a_model_without_tools_says_so():
    """Whatever the request chooses."""
    with pytest.raises(ToolError, match="takes no tools"):
        Calling(None, TOKENIZER).guide(tools("required"), CONSTRAINTS)

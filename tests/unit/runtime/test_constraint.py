"""The form of an answer: JSON of a schema, or a text of an expression, whatever the model would write."""

import contextlib
import json
import re
import sys
import time

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from edgeml_core.errors import UsageError
from edgeml_runtime.generate import constraint, grammar_limits
from edgeml_runtime.generate.constraint import Constraints
from edgeml_runtime.generate.logprobs import TokenTexts
from edgeml_runtime.generate.options import Constraint, Continuation, schema_constraint
from edgeml_runtime.generate.sampling import Sampler

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}


def tokenizer():
    """Byte-level, with tokens that cross the parts of JSON."""
    names = [*sorted(pre_tokenizers.ByteLevel.alphabet()), '{"', '":', '","', '"}', "Ġa", "new", "12", "ä½", "}}"]
    made = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|end|>", "<|user|>"])
    return made


TOKENIZER = tokenizer()
END = TOKENIZER.token_to_id("<|end|>")
SIZE = TOKENIZER.get_vocab_size()
CONSTRAINTS = Constraints(TOKENIZER, (END,))


def written(constraint, seed, *, outputs=SIZE, temperature=1.0, constraints=CONSTRAINTS):
    """The answer of a model whose logits are random, of 400 tokens at most; None where it isn't complete."""
    options = Continuation(max_new_tokens=400, temperature=temperature, seed=seed)
    sampler = Sampler(options, (), TokenTexts(TOKENIZER), constraints.guide(constraint))
    logits, tokens = np.random.default_rng(seed), []
    for _ in range(options.max_new_tokens):
        drawn = sampler.draw(logits.standard_normal(outputs).astype(np.float32) * 3)
        if drawn.token != END:
            tokens.append(drawn.token)
        if drawn.is_last:
            return TOKENIZER.decode(tokens)
    return None


def fits(value):
    """Whether a value is a person of the schema, by hand."""
    return (
        list(value) == ["name", "age", "tags"]
        and isinstance(value["name"], str)
        and len(value["name"]) <= 12
        and type(value["age"]) is int
        and 0 <= value["age"] <= 150
        and len(value["tags"]) <= 2
        and set(value["tags"]) <= {"new", "old"}
    )


def test_a_form_allows_the_same_where_llguidance_reads_the_tokenizer(monkeypatch):
    """As it does for tokenizers that aren't byte-level."""
    monkeypatch.setattr(constraint, "token_bytes", lambda _: None)
    own = Constraints(TOKENIZER, (END,))
    for form in (schema_constraint(PERSON), Constraint("regex", "(new|old)+[0-9]{3}ä*")):
        for seed in range(10):
            assert written(form, seed, constraints=own) == written(form, seed)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_random_logits_write_what_a_schema_allows(temperature):
    """Each answer parses, has no special token in it, and no white space between its parts."""
    for seed in range(30):
        text = written(schema_constraint(PERSON), seed, temperature=temperature)
        value = json.loads(text)
        assert fits(value)
        assert text == json.dumps(value, separators=(",", ":"), ensure_ascii=False) or "\\" in text


def test_random_logits_write_what_an_expression_matches():
    """As a whole."""
    for seed in range(30):
        assert re.fullmatch(r"[ab]{2,4}-[0-9]", written(Constraint("regex", r"[ab]{2,4}-[0-9]"), seed))


def test_outputs_beyond_the_tokenizer_are_never_drawn():
    """A model's vocabulary may be padded."""
    assert json.loads(written(schema_constraint(PERSON), 0, outputs=SIZE + 40))


def test_an_expression_that_may_go_on_ends_by_the_models_own_end():
    """The stop token is allowed where the text is complete, and only there."""
    guide = CONSTRAINTS.guide(Constraint("regex", "ab*"))
    assert not guide.allowed(SIZE)[END]
    assert not guide.advance(TOKENIZER.token_to_id("a"))
    allowed = guide.allowed(SIZE)
    assert [bool(allowed[TOKENIZER.token_to_id(name)]) for name in ("<|end|>", "b", "a")] == [True, True, False]
    assert guide.advance(END)


def test_every_stop_token_ends_an_answer():
    """A model may have several; all of them are allowed where one is."""
    other = TOKENIZER.token_to_id("<|user|>")
    guide = Constraints(TOKENIZER, (END, other, 10**6)).guide(Constraint("regex", "ab*"))
    assert not guide.allowed(SIZE)[[END, other]].any()
    assert not guide.advance(TOKENIZER.token_to_id("a"))
    assert guide.allowed(SIZE)[[END, other]].all()
    assert guide.advance(other)


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (schema_constraint({"type": "nonsense"}), "nonsense"),
        (schema_constraint({"not": {"type": "string"}}), "not"),
        (schema_constraint({"$ref": "https://example.org/x.json"}), "registry"),
        (schema_constraint({"type": "integer", "minimum": 2, "maximum": 1}), "Unsatisfiable"),
        (schema_constraint({"type": "integer", "multipleOf": 1_234_567}), "1234567"),
        (schema_constraint({"allOf": [{"multipleOf": 997}, {"multipleOf": 991}]}), "988027"),
        (schema_constraint({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}), "1000000 characters"),
        (schema_constraint({"patternProperties": {"(a{1000}){1000}": {}}}), "1000000 characters"),
        (Constraint("regex", "["), "regex"),
        (Constraint("regex", "(a{999999999})" + "{999999999}" * 600), "100000000000000000000 characters"),
        (Constraint("regex", "a{" + "1" * 5000 + "}"), "100000000000000000000 characters"),
        (schema_constraint({"allOf": [{"multipleOf": 10**18 + it} for it in range(500)]}), "digits 100000000000"),
        (Constraint("regex", "(?=a)b"), "regex"),
        (Constraint("regex", "(?sx)(a{#c\n1000}){1000}"), "flag x"),
        (Constraint("regex", "((a{1000}){100}){100}"), "10000000 characters"),
        (Constraint("json_schema", '{"items":' * 300 + "{}" + "}" * 300), "recursion"),
    ],
    ids=lambda it: it.text[:40] if isinstance(it, Constraint) else "",
)
def test_a_form_that_is_not_supported_is_input_invalid(constraint, reason):
    """At once, with the library's reason in one short line."""
    with pytest.raises(UsageError) as caught:
        CONSTRAINTS.guide(constraint)
    assert caught.value.code == "input-invalid"
    assert reason in caught.value.message
    assert len(caught.value.message) < 400
    assert "\n" not in caught.value.message


def test_a_form_without_the_library_names_the_install(monkeypatch):
    """The device's owner may leave it out."""
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UsageError, match="llguidance") as caught:
        CONSTRAINTS.guide(schema_constraint(PERSON))
    assert "pip install 'edgeml-deploy[guidance]'" in caught.value.hint


def test_a_tokenizer_that_is_not_supported_is_input_invalid():
    """One whose tokens don't tell the bytes they stand for."""
    plain = Constraints(Tokenizer(models.WordLevel({"a": 0}, "a")), (0,))
    with pytest.raises(UsageError, match="can't be constrained"):
        plain.guide(schema_constraint(PERSON))


@pytest.mark.parametrize(
    ("expression", "chars"),
    [
        ("abc", 3),
        ("a{3}", 3),
        ("a{2,5}b", 6),
        ("a{ 2 , 5 }", 5),
        ("(ab){4}c*", 9),
        ("((a{2}){3}){4}", 24),
        (r"[a-z]{9}\d{4}\p{L}{2}\x{1000}", 16),
        (r"\({3}[(){}]{2}", 5),
        ("(a|bc){10}", 40),
        ("(a{5}", 5),
    ],
)
def test_expanded_characters_count_repetitions(expression, chars):
    """Each repetition spelled out, by hand."""
    assert grammar_limits._expanded_chars(expression) == chars


@pytest.mark.parametrize(("begin", "unit", "end"), [("", "[", ""), ("", "[", "\\"), ("a{1,", " ", "")], ids=repr)
def test_check_regex_reads_each_character_once(begin, unit, end):
    """A class or a repetition without its end; twice the length took four times as long, 9 s for 32 KB."""
    expression = begin + unit * (16_384 // len(unit)) + end
    begun_s = time.thread_time()
    with contextlib.suppress(UsageError):
        grammar_limits.check_regex(expression)
    assert time.thread_time() - begun_s < 0.1

"""Messages to a prompt by plain data."""

import pytest

from edgeml_core.errors import UsageError
from edgeml_core.processing import ChatTemplate
from edgeml_runtime.generate.chat import render
from edgeml_runtime.tasks import Message

BETWEEN = {
    "": {"user": "<u>", "system": "<s>"},
    "system": {"user": "</s><u>"},
    "user": {"": "</u><a>", "assistant": "</u><a>"},
    "assistant": {"user": "</a><u>"},
}


def conversation(*said):
    return [Message(role, content) for role, content in said]


def test_render_text_between_depends_on_both_roles():
    """The answer is to begin where the prompt ends."""
    asked = conversation(("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", " Three? "))
    expected = "<s>Be brief.</s><u>One?</u><a>Two.</a><u> Three? </u><a>"
    assert render(asked, ChatTemplate(between=BETWEEN)) == expected


def test_render_trim_strips_white_space():
    """At a message's ends only."""
    assert render(conversation(("user", " a b\n")), ChatTemplate(between=BETWEEN, trim=True)) == "<u>a b</u><a>"


@pytest.mark.parametrize(
    ("roles", "why"),
    [
        ((), "no message"),
        (("assistant",), "'assistant' can't come first"),
        (("user", "user"), "'user' can't come after one of 'user'"),
        (("user", "assistant"), "last message is of the role 'assistant'"),
        (("tool",), "'tool' can't come first"),
    ],
)
def test_render_unknown_order_of_roles_raises(roles, why):
    """The hint says which ones it knows."""
    with pytest.raises(UsageError, match=why) as caught:
        render(conversation(*((role, "a") for role in roles)), ChatTemplate(between=BETWEEN))
    assert "user after system" in caught.value.hint

"""A tiny GPT-2 that has learnt to call a tool, to sum up its result, and to answer without it: seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import transformers

from support.tiny_chat import END, save, tokenizer_of

TOKENS_MAX: Final = 1024
TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "read_pump",
        "description": "The state of a pump",
        "parameters": {
            "type": "object",
            "properties": {"pump": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
            "required": ["pump", "unit"],
            "additionalProperties": False,
        },
    },
}
#: A question, the arguments of the call that it asks for, the call's result, and the answer then.
CALLS: Final[list[tuple[str, dict[str, Any], str, str]]] = [
    ("How warm is pump one?", {"pump": 1, "unit": "C"}, '{"degrees": 41}', "Pump one has 41 degrees."),
    ("How warm is pump two in F?", {"pump": 2, "unit": "F"}, '{"degrees": 90}', "Pump two has 90 degrees."),
]
#: Two calls in one answer.
BOTH: Final = ("How warm are both pumps?", [{"pump": 1, "unit": "C"}, {"pump": 2, "unit": "C"}])
#: A question that needs no tool, and its answer.
PLAIN: Final = ("Who checks the filter?", "The night shift does.")
#: In the way of Qwen2.5's, with fewer words.
TEMPLATE: Final = (
    "{%- if tools %}{{ '<|im_start|>system\n' }}"
    "{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ 'Tools:' }}{% for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}{{ '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}"
    "{% endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or message.role == 'assistant' and not message.tool_calls %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' %}{{ '<|im_start|>assistant' }}"
    "{%- if message.content %}{{ '\n' + message.content }}{% endif %}"
    "{%- for call in message.tool_calls %}{%- set call = call.function %}"
    '{{ \'\n<tool_call>\n{"name": "\' + call.name + \'", "arguments": \' }}{{ call.arguments | tojson }}'
    "{{ '}\n</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{%- endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def pretrained(folder: Path) -> str:
    """The model's folder, as transformers saves it."""
    transformers.set_seed(0)
    texts = [json.dumps(TOOL), *(text for asked in CALLS for text in (asked[0], asked[3], written(asked[1])))]
    tokenizer = tokenizer_of([*texts, BOTH[0], *PLAIN] * 3, 600, TEMPLATE, TOKENS_MAX)
    save(_lessons(tokenizer), tokenizer, folder)
    return str(folder)


def written(*arguments: dict[str, Any]) -> str:
    """Calls as the template writes them."""
    calls = ({"name": "read_pump", "arguments": it} for it in arguments)
    return "\n".join(f"<tool_call>\n{json.dumps(it)}\n</tool_call>" for it in calls)


def _lessons(tokenizer: transformers.PreTrainedTokenizerFast) -> list[tuple[str, str]]:
    """What is given, and what is to be said then."""

    def lesson(answer: str, *messages: dict[str, Any]) -> tuple[str, str]:
        given = tokenizer.apply_chat_template(list(messages), tools=[TOOL], tokenize=False, add_generation_prompt=True)
        return given, f"{answer}{END}"

    made = [lesson(PLAIN[1], {"role": "user", "content": PLAIN[0]})]
    made.append(lesson(written(*BOTH[1]), {"role": "user", "content": BOTH[0]}))
    for question, arguments, result, answer in CALLS:
        call = {"id": "123456789", "type": "function", "function": {"name": "read_pump", "arguments": arguments}}
        asked = {"role": "user", "content": question}
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        told = {"role": "tool", "content": result, "tool_call_id": "123456789"}
        made += [lesson(written(arguments), asked), lesson(answer, asked, called, told)]
    return made

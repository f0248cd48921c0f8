"""Chat templates as plain data: those of well-known models, whole or without a part, and what can't be told so."""

import pytest

from edgeml.exporters.huggingface import chat_template
from edgeml.exporters.huggingface.chat_template import Inexpressible
from edgeml_core.errors import UsageError
from edgeml_runtime.encode.text import opened
from edgeml_runtime.generate.chat import render
from edgeml_runtime.tasks import Message
from support.breadth_models import tokenizer

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
)
#: Qwen2's and SmolLM2's: a system's message is there even when nobody sends one.
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}" + CHATML
)
#: Zephyr's and TinyLlama's.
ZEPHYR = (
    "{% for message in messages %}\n{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    + ALTERNATE
    + "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
#: Llama 3's, without the day.
LLAMA_3 = (
    "{% for message in messages %}{% set content = '<|start|>' + message['role'] + '<|end|>\n\n' + "
    "message['content'] | trim + '<|eot|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start|>assistant<|end|>\n\n' }}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for message in messages %}"
    + ALTERNATE
    + "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<turn>' + role + '\n' + message['content'] | trim + '<end>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}"
)
#: Mistral's later ones: the system's message stands before the last message.
SYSTEM_LAST = (
    "{% if messages[0]['role'] == 'system' %}{% set said = messages[0]['content'] %}{% set rest = messages[1:] %}"
    "{% else %}{% set rest = messages %}{% endif %}{{ bos_token }}{% for message in rest %}"
    + ALTERNATE
    + "{% if message['role'] == 'user' %}{% if loop.last and said is defined %}{{ '[INST]' + said + '\n\n' + "
    "message['content'] + '[/INST]' }}{% else %}{{ '[INST]' + message['content'] + '[/INST]' }}{% endif %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
SYSTEM, USER, ASSISTANT, AGAIN = (
    Message("system", " Be brief. "),
    Message("user", "One?"),
    Message("assistant", "Two.\n"),
    Message("user", " Three?"),
)


def saved(folder, template):
    """The tokenizer of transformers with that template, and the one that the device uses."""
    made = tokenizer(64)
    made.chat_template = template
    made.save_pretrained(folder)
    return made, opened(folder / "tokenizer.json")


@pytest.mark.parametrize(
    ("template", "takes_system"),
    [
        (CHATML, True),
        (DEFAULT_SYSTEM, True),
        (ZEPHYR, True),
        (LLAMA_2, True),
        (LLAMA_3, True),
        (GEMMA, False),
        (SYSTEM_LAST, False),
    ],
    ids=["chatml", "default-system", "zephyr", "llama-2", "llama-3", "gemma", "system-last"],
)
def test_read_known_template_renders_as_transformers_does(template, takes_system, tmp_path):
    """Tokens, too; where data can't express the system's message, it is refused rather than lost."""
    theirs, ours = saved(tmp_path, template)
    found = chat_template.read(tmp_path, ours)
    conversations = [[USER], [USER, ASSISTANT, AGAIN], [SYSTEM, USER], [SYSTEM, USER, ASSISTANT, AGAIN]]
    for messages in conversations:
        if SYSTEM in messages and not takes_system:
            with pytest.raises(UsageError, match="'system' can't come first"):
                render(messages, found)
            continue
        said = [{"role": it.role, "content": it.content} for it in messages]
        expected = theirs.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        assert render(messages, found) == expected
        ids = theirs.apply_chat_template(said, add_generation_prompt=True)
        assert ours.encode(expected, add_special_tokens=False).ids == ids


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (CHATML.replace("message['content']", "message['content'].split('</think>')[-1]"), "contents of the messages"),
        (CHATML.replace("message['role']", "loop.index0 ~ message['role']"), "more than these two"),
        (CHATML + "{{ strftime_now('%d') }}", "depends on the date"),
        ("{{ raise_exception('never') }}", "ends with the user"),
        ({"one": CHATML, "two": CHATML}, "can't open"),
    ],
    ids=["content", "position", "day", "never", "several"],
)
def test_read_template_that_data_cannot_express_raises_the_reason(template, why, tmp_path):
    """The model then takes prompts only."""
    _, ours = saved(tmp_path, template)
    with pytest.raises(Inexpressible, match=why):
        chat_template.read(tmp_path, ours)


def test_read_without_a_template_is_none(tmp_path):
    """A language model that wasn't trained on conversations."""
    _, ours = saved(tmp_path, None)
    assert chat_template.read(tmp_path, ours) is None

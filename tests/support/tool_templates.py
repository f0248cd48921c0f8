"""Chat templates that write tools in the ways of well-known models, with fewer words."""

from __future__ import annotations

from typing import Final

from support.tiny_calls import TEMPLATE as QWEN

_TURN: Final = "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
_ANSWER: Final = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
#: Functions alone in one list; calls with the arguments' keys in compact JSON, several behind each other.
HERMES: Final = (
    "{%- if tools %}{{ '<|im_start|>system\nYou call functions. <tools> [' }}"
    "{%- for tool in tools %}{{ tool.function | tojson(separators=(',', ':')) }}"
    "{%- if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ '] </tools><|im_end|>\n' }}{% endif %}"
    "{%- for message in messages %}{%- if message.role == 'tool' %}"
    "{{ '<|im_start|>tool\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- elif message.tool_calls %}{{ '<|im_start|>assistant\n' }}"
    "{%- for call in message.tool_calls %}"
    '{{ \'<tool_call>\n{"name":"\' + call.function.name + \'","arguments":\' }}'
    "{{ call.function.arguments | tojson(separators=(',', ':')) + '}\n</tool_call>' }}"
    "{%- if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}"
    "{%- else %}" + _TURN + "{% endif %}{% endfor %}" + _ANSWER
)
#: Tools in the first message of the user, one call alone, results as JSON's texts.
LLAMA: Final = (
    "{{ bos_token }}{%- if messages[0].role == 'system' %}{%- set system = messages[0].content | trim %}"
    "{%- set messages = messages[1:] %}{% else %}{%- set system = '' %}{% endif %}"
    "{{ '<|start|>system<|end|>\n\n' }}{%- if tools %}{{ 'Environment: ipython\n' }}{% endif %}{{ system + '</s>' }}"
    '{%- if tools %}{{ \'<|start|>user<|end|>\n\nRespond with {"name": name, "parameters": values}.\n\n\' }}'
    "{%- for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}"
    "{{ messages[0].content | trim + '</s>' }}{%- set messages = messages[1:] %}{% endif %}"
    "{%- for message in messages %}{%- if message.role == 'tool' %}"
    "{{ '<|start|>ipython<|end|>\n\n' + message.content | tojson + '</s>' }}"
    "{%- elif 'tool_calls' in message %}"
    "{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    "{%- set call = message.tool_calls[0].function %}"
    '{{ \'<|start|>assistant<|end|>\n\n{"name": "\' + call.name + \'", "parameters": \' }}'
    "{{ call.arguments | tojson + '}</s>' }}"
    "{%- else %}{{ '<|start|>' + message.role + '<|end|>\n\n' + message.content | trim + '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"
)
#: Tools before the user's last message, texts without escapes, ids of nine characters.
MISTRAL: Final = (
    "{%- set asked = messages | selectattr('role', 'equalto', 'user') | list %}{{ bos_token }}"
    "{%- for message in messages %}{%- if message.role == 'system' %}{{ raise_exception('no system') }}"
    "{%- elif message.role == 'user' %}{%- if tools and message == asked[-1] %}{{ '[AVAILABLE_TOOLS] [' }}"
    '{%- for tool in tools %}{{ \'{"type": "function", "function": {\' }}'
    "{%- for key, value in tool.function.items() %}"
    "{%- if value is string %}{{ '\"' + key + '\": \"' + value + '\"' }}"
    "{%- else %}{{ '\"' + key + '\": ' + value | tojson }}{% endif %}{% if not loop.last %}{{ ', ' }}{% endif %}"
    "{% endfor %}{{ '}}' }}{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ '][/AVAILABLE_TOOLS]' }}"
    "{% endif %}{{ '[INST] ' + message.content + '[/INST]' }}"
    "{%- elif message.tool_calls is defined %}{{ '[TOOL_CALLS] [' }}{%- for call in message.tool_calls %}"
    "{%- if call.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}"
    "{{ (call.function | tojson)[:-1] + ', \"id\": \"' + call.id + '\"}' }}"
    "{% if not loop.last %}{{ ', ' }}{% endif %}{% endfor %}{{ ']' + eos_token }}"
    "{%- elif message.role == 'tool' %}"
    "{{ '[TOOL_RESULTS] {\"content\": ' + message.content + ', \"call_id\": \"' + message.tool_call_id + '\"}' }}"
    "{{ '[/TOOL_RESULTS]' }}{%- else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}"
)
#: Calls without JSON around them.
DEVSTRAL: Final = (
    "{{ bos_token }}{%- if messages[0].role == 'system' %}"
    "{{ '[SYSTEM_PROMPT]' + messages[0].content + '[/SYSTEM_PROMPT]' }}{%- set messages = messages[1:] %}{% endif %}"
    "{%- if tools %}{{ '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
    "{%- for message in messages %}{%- if message.role == 'user' %}{{ '[INST]' + message.content + '[/INST]' }}"
    "{%- elif message.role == 'tool' %}"
    "{{ '[TOOL_RESULTS]' + message.tool_call_id + '[TOOL_CONTENT]' + message.content + '[/TOOL_RESULTS]' }}"
    "{%- else %}{%- if message.content %}{{ message.content }}{% endif %}{%- for call in message.tool_calls %}"
    "{{ '[TOOL_CALLS]' + call.function.name + '[ARGS]' + call.function.arguments | tojson }}{% endfor %}"
    "{{ eos_token }}{% endif %}{% endfor %}"
)
#: SmolLM2's: it knows no tools.
WITHOUT: Final = "{% for message in messages %}" + _TURN + "{% endfor %}" + _ANSWER
TEMPLATES: Final = {"qwen": QWEN, "hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL, "devstral": DEVSTRAL}
#: Those whose prompt depends on more than the data has.
INEXPRESSIBLE: Final = {
    "signatures": (
        HERMES.replace("tool.function | tojson(separators=(',', ':'))", "tool.function.name + '()'"),
        "JSON",
    ),
    "numbered": (
        HERMES.replace("tool\n<tool_response>\n' +", "tool\n<tool_response>\n' ~ loop.index ~"),
        "depends on more than",
    ),
    "contents": (
        HERMES.replace("message.content + '\n</tool", "message.content | replace('\"', '') + '\n</tool"),
        "contents",
    ),
    "escapes": (HERMES.replace("call.function.name +", "call.function.name | upper +"), "name with arguments"),
    "endless": (HERMES.replace("{{ '<|im_end|>\n' }}{%- else %}", "{%- else %}"), "no token that ends"),
    "two-ways": (
        QWEN.replace(
            "<|im_start|>assistant' }}{%- if message.content", "<|im_start|>function' }}{%- if message.content"
        ),
        "doesn't begin as answers do",
    ),
}

"""Chat templates of our own, in the forms that models come with, and tokenizers for them."""

from typing import Any

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.tiny_models import byte_level_bpe

_STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles take turns, user first') }}{% endif %}"
)

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "chatml without generation prompt": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}" + _STRICT + "<start_of_turn>"
        "{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
        "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "mistral first": (
        "{{ bos_token }}" + _STRICT + "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "mistral late": (
        "{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set said = messages[1:] %}{% else %}{% set said = messages %}{% endif %}"
        "{{- bos_token }}{% for m in said %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns') }}"
        "{% endif %}"
        "{% if m.role == 'user' %}{% if loop.last and system is defined %}"
        "{{ '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}{% else %}"
        "{{ '[INST] ' + m.content + '[/INST]' }}{% endif %}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama 2": (
        "{% if messages[0].role == 'system' %}{% set said = messages[1:] %}"
        "{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
        "{% else %}{% set said = messages %}{% set system = '' %}{% endif %}"
        "{% for m in said %}{% set content = system + m.content if loop.first else m.content %}"
        "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama 3": (
        "{% for m in messages %}{% set c = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'"
        " + m.content | trim + '<|eot_id|>' %}{% if loop.first %}{% set c = bos_token + c %}"
        "{% endif %}{{ c }}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content + eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    ),
    "phi": (
        "{% for m in messages %}{% if m.role == 'system' and m.content %}"
        "{{ '<|system|>\n' + m.content + '<|end|>\n' }}{% elif m.role == 'user' %}"
        "{{ '<|user|>\n' + m.content + '<|end|>\n' }}{% elif m.role == 'assistant' %}"
        "{{ '<|assistant|>\n' + m.content + '<|end|>\n' }}{% endif %}{% endfor %}"
        "{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}"
    ),
    "deepseek": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}"
        "{% elif m.role == 'user' %}{{ '<|User|>' + m.content }}{% else %}"
        "{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
    ),
    "qwen 3": (
        "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and "
        "'</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
    ),
    "parts": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% elif part.type == 'image' %}<image>"
        "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "own system prompt": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "deaf to the system": (
        "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "says the system twice": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "tools and dates": (
        "{% if tools %}{{ tools | tojson }}{% endif %}{{ bos_token }}"
        "{% if strftime_now is defined %}{% set date = strftime_now('%d %b %Y') %}{% endif %}"
        "<|im_start|>system\nToday: {{ date }}\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
        "{% set messages = messages[1:] %}{% endif %}<|im_end|>\n"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}"
        "{% endgeneration %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "written": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '### Human: ' + m.content }}"
        "{% elif m.role == 'assistant' %}{{ '### Assistant: ' + m.content }}"
        "{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Assistant:' }}{% endif %}"
    ),
}

USELESS = {
    "syntax": "{% for m in messages %}{{ m.content }",
    "refuses all": "{{ raise_exception('not today') }}",
    "drops what is said": "<|im_start|>assistant\n",
    "last only": "<|im_start|>user\n{{ messages[-1].content }}<|im_end|>\n<|im_start|>assistant\n",
    "cuts": "{% for m in messages %}{{ m.role }} {{ m.content[:2] }}\n{% endfor %}",
    "huge": "{% for a in range(99999) %}{{ 'x' * 99 }}{% endfor %}",
    "greedy": "{{ 'x' * 10**11 }}",
    "reaches out": "{{ messages.__class__.__mro__ }}",
}

ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

TOKENS = (
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|User|>",
    "<|Assistant|>",
    "<think>",
    "</think>",
)


def tokenizer(
    template: str | dict[str, str] | None, *, special: bool = False, bos: bool = False
) -> Any:
    """Return a byte-level tokenizer that knows most markers, `special` or by name alone.

    With `bos` it puts that before every text itself.
    """
    made = byte_level_bpe(["the user and the assistant say hello to the system"], 300)
    found = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    added = [AddedToken(each, special=special, normalized=False) for each in TOKENS]
    found.add_tokens(added, special_tokens=special)
    found.chat_template = template
    if bos:
        found.add_bos_token = True
        found.update_post_processor()
    return found

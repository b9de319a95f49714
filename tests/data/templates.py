"""Chat templates in the manner of public models, each beside the segments of text that it means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from tests.tiny import make_tokenizer
from tide.data.conversation import Conversation, Message

SPECIALS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
)
# Text, the message whose content it is, whether it is in the loss.
Segment = tuple[str, int | None, bool]


@dataclass(frozen=True)
class Template:
    """A template, and the segments that it makes of messages."""

    source: str
    segments: Callable[[Sequence[Message]], list[Segment]]

    def __repr__(self) -> str:
        return self.segments.__name__


def tokenizer_with(template: str | Template, vocab_size: int = 300) -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer that knows SPECIALS, with this template."""
    tokenizer = make_tokenizer(vocab_size)
    tokenizer.add_special_tokens({"bos_token": "<s>", "additional_special_tokens": list(SPECIALS)})
    tokenizer.chat_template = template.source if isinstance(template, Template) else template
    return tokenizer


def chat(*turns: tuple[str, str] | str) -> Conversation:
    """Messages from (role, content), or from contents of user and assistant in turn."""
    roles = ("user", "assistant")
    pairs = [turn if isinstance(turn, tuple) else (roles[at % 2], turn) for at, turn in enumerate(turns)]
    return Conversation(tuple(Message(role, content) for role, content in pairs))


def im_start(messages: Sequence[Message]) -> list[Segment]:
    segments: list[Segment] = []
    for at, message in enumerate(messages):
        answer = message.role == "assistant"
        segments += [
            (f"<|im_start|>{message.role}\n", None, False),
            (message.content, at, answer),
            ("<|im_end|>", None, answer),
            ("\n", None, False),
        ]
    return segments


def headers(messages: Sequence[Message]) -> list[Segment]:
    segments: list[Segment] = [("<s>", None, False)]
    for at, message in enumerate(messages):
        answer = message.role == "assistant"
        segments += [
            (f"<|start_header_id|>{message.role}<|end_header_id|>\n\n", None, False),
            (message.content.strip(), at, answer),
            ("<|eot_id|>", None, answer),
        ]
    return segments


def folded(messages: Sequence[Message]) -> list[Segment]:
    """The system's message stands before the last question."""
    segments: list[Segment] = [("<s>", None, False)]
    last = max(at for at, message in enumerate(messages) if message.role == "user")
    for at, message in enumerate(messages):
        if message.role == "user":
            segments.append(("[INST] ", None, False))
            if at == last and messages[0].role == "system" and messages[0].content:
                segments += [(messages[0].content, 0, False), ("\n\n", None, False)]
            segments += [(message.content, at, False), ("[/INST]", None, False)]
        elif message.role == "assistant":
            # The generation prompt ends with [/INST]: the space is the model's to write.
            segments += [(" ", None, True), (message.content, at, True), ("</s>", None, True)]
    return segments


def marked(messages: Sequence[Message]) -> list[Segment]:
    """The template marks the loss spans: here up to the newline."""
    segments: list[Segment] = []
    for at, message in enumerate(messages):
        answer = message.role == "assistant"
        segments += [
            (f"<|im_start|>{message.role}\n", None, False),
            (message.content, at, answer),
            ("<|im_end|>\n", None, answer),
        ]
    return segments


def plain(messages: Sequence[Message]) -> list[Segment]:
    """No special tokens: the newline ends the turn, and the space before an answer is the model's."""
    segments: list[Segment] = []
    for at, message in enumerate(messages):
        answer = message.role == "assistant"
        segments += [
            (f"{message.role.capitalize()}:", None, False),
            (" ", None, answer),
            (message.content, at, answer),
            ("\n", None, answer),
        ]
    return segments


def stripped_plain(messages: Sequence[Message]) -> list[Segment]:
    """The system's header is left out with its text, and the text ends with the last answer."""
    segments: list[Segment] = []
    for at, message in enumerate(messages):
        if message.role == "system" and not message.content:
            continue
        answer = message.role == "assistant"
        segments += [
            ("\n" if segments else "", None, False),
            (f"{message.role}:", None, False),
            (" ", None, answer),
            (message.content.strip(), at, answer),
        ]
    return segments


IM_START = Template(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    im_start,
)
HEADERS = Template(
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m['content'] | trim + '<|eot_id|>' }}{% endfor %}",
    headers,
)
FOLDED = Template(
    """{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}
{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}
{{- bos_token }}
{%- for m in turns %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}
{%- set ns = namespace(last=true) %}
{%- for later in turns[loop.index:] %}{%- if later.role == 'user' %}{%- set ns.last = false %}{%- endif %}
{%- endfor %}
{%- if m.role == 'user' %}
{%- if ns.last and system %}{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}
{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}
{%- else %}{{- ' ' + m.content + '</s>' }}{%- endif %}
{%- endfor %}""",
    folded,
)
MARKED = Template(
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}",
    marked,
)
PLAIN = Template(
    "{% for m in messages %}{{ m.role.capitalize() + ': ' + m.content + '\n' }}{% endfor %}", plain
)
STRIPPED_PLAIN = Template(
    "{% set ns = namespace(first=true) %}{% for m in messages %}{% if m.role != 'system' or m.content %}"
    "{{ ('' if ns.first else '\n') + m.role + ': ' + m.content.strip() }}{% set ns.first = false %}"
    "{% endif %}{% endfor %}",
    stripped_plain,
)
TEMPLATES = (IM_START, HEADERS, FOLDED, MARKED, PLAIN, STRIPPED_PLAIN)

# Thoughts of earlier answers are left out, and every answer after the last question has a block for them.
THINKING = """{%- set ns = namespace(last=-1) %}
{%- for m in messages %}
{%- if m.role == 'user' and not (m.content.startswith('<reply>') and m.content.endswith('</reply>')) %}
{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' %}
{%- set content = m.content %}{%- set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{%- if loop.index0 > ns.last %}{{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' }}{%- endif %}
{{- content.lstrip('\n') }}
{%- else %}{{- m.content }}{%- endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}"""

"""Two chat models in the small: unlike vocabularies and templates; and conversations."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from tests.tiny import make_tokenizer

CHATML = (
    "{% for m in messages %}<|turn|>{{ m['role'] }}\n{{ m['content'] }}<|end_turn|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
HEADERS = (
    "{{ '<|begin|>' }}{% for m in messages %}[{{ m['role'] | upper }}] {{ m['content'] | trim }}<|stop|>"
    "{% endfor %}"
)
CONVERSATIONS = [
    {
        "messages": [
            {"role": "system", "content": "You write Python."},
            {"role": "user", "content": "Write add."},
            {"role": "assistant", "content": "def add(first, second):\n    return first + second"},
            {"role": "user", "content": "def add(first, second):\n    return first + second"},
            {"role": "assistant", "content": "assistant"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "assistant"},
            {"role": "assistant", "content": "print('über Straße 🙂', 12345)"},
        ]
    },
    {"prompt": [{"role": "user", "content": "x"}], "completion": [{"role": "assistant", "content": "x x"}]},
]


def _chat(tokenizer: PreTrainedTokenizerFast, template: str, special: list[str]) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.chat_template = template
    return tokenizer


def make_chat_tokenizer() -> PreTrainedTokenizerFast:
    """A student's: turns between special tokens."""
    return _chat(make_tokenizer(300), CHATML, ["<|turn|>", "<|end_turn|>"])


def make_other_chat_tokenizer() -> PreTrainedTokenizerFast:
    """A teacher's: other words around the turns, contents trimmed."""
    return _chat(make_tokenizer(340, words=False), HEADERS, ["<|begin|>", "<|stop|>"])

"""Two chat models in the small: unlike vocabularies and templates; and conversations."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from tests.tiny import make_tokenizer
from tide.batch import Example
from tide.config import DataConfig
from tide.data import Row
from tide.methods import METHODS
from tide.preparation import Built, ExampleBuilder

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


def builder(*tokenizers: PreTrainedTokenizerFast, block_size: int, **data: object) -> ExampleBuilder:
    """Without a teacher for one tokenizer, across both for two; `data` is of the recipe's section."""
    method = METHODS["none" if len(tokenizers) == 1 else "tide_cross"]
    return ExampleBuilder(DataConfig(**data), method, *tokenizers, block_size=block_size)


def examples_of(rows: Sequence[Row], *tokenizers: PreTrainedTokenizerFast, **layout: object) -> list[Example]:
    """The examples of the rows that make one; arguments as `builder` takes them."""
    return [row.example for row in builder(*tokenizers, **layout)(rows) if isinstance(row, Built)]


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

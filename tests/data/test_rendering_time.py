"""Rendering takes work in proportion to the turns, whatever a template does to them.

Mutants that these tests kill: messages located one after the other; the text rendered again for every answer;
all messages looked through for every answer.
"""

from __future__ import annotations

import sys

import pytest

from tests.data.templates import chat, tokenizer_with
from tide.data.rendering import render


def turns(content: str, end: str) -> str:
    return f"{{% for m in messages %}}{{{{ '[' + m.role + ']' }}}}{content}{end}{{% endfor %}}"


WITHOUT_THOUGHTS = turns(
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}",
    "</s>",
)
MARKED = turns(
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}",
    "</s>",
)
HARD = {
    "thoughts left out": (WITHOUT_THOUGHTS, 50, "<think>\nhm\n</think>\n\nanswer {at} "),
    "no special token": (turns("{{ m.content }}", "\n"), 100, "answer {at}"),
    "blank questions": (turns("{{ m.content | trim }}", " "), 500, "answer {at}"),
    "marked": (MARKED, 200, "answer {at}"),
}


@pytest.mark.parametrize("name", HARD)
def test_four_times_the_turns_take_about_four_times_the_calls(name):
    template, pairs, answer = HARD[name]
    question = " \n" if name == "blank questions" else "question {at} "
    tokenizer = tokenizer_with(template)

    def calls(pairs: int) -> int:
        """Count the calls of Python and C functions: unlike seconds, they are the same in every run."""
        turns = (text.replace("{at}", str(at)) for at in range(pairs) for text in (question, answer))
        row, count = chat(*turns), 0

        def count_calls(_frame, event, _function):
            nonlocal count
            count += event in ("call", "c_call")

        sys.setprofile(count_calls)
        try:
            render(row, tokenizer)
        finally:
            sys.setprofile(None)
        return count

    calls(2)
    small, large = calls(pairs), calls(4 * pairs)
    assert large < 4.4 * small, f"{small} calls, then {large}"

"""The loss span of a turn: from where a generation prompt ends to what ends the turn.

Mutants that these tests kill: loss spans from their first letter on, or with their header; turns that end
with the next header's words, or that meet and become one.
"""

from __future__ import annotations

import pytest

from tests.data.templates import THINKING, chat, tokenizer_with
from tide.data.conversation import Conversation, Message
from tide.data.rendering import Rendered, render


def loss_text(row: Rendered) -> list[str]:
    return [row.text[start:end] for start, end in row.loss_spans]


def test_marks_that_follow_one_another_are_one():
    template = (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}<think></think>"
        "{% endgeneration %}{% generation %}{{ m.content }}</s>{% endgeneration %}{% else %}{{ m.content }}"
        "{% endif %}{% endfor %}"
    )
    row = render(chat("a", "b"), tokenizer_with(template))
    assert loss_text(row) == ["<think></think>b</s>"] and row.text[slice(*row.contents[1])] == "b"


def test_marks_of_different_answers_stay_apart():
    """An answer of the prompt next to the completion is not in its loss span."""
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    turns = (Message("user", "q"), Message("assistant", "context "), Message("assistant", "learnt"))
    row = render(Conversation(turns, num_prompt=2), tokenizer_with(template))
    assert row.text == "qcontext learnt" and loss_text(row) == ["learnt"]
    both = render(Conversation(turns), tokenizer_with(template))
    assert loss_text(both) == ["context ", "learnt"]


@pytest.mark.parametrize(
    ("arguments", "thought"), [({}, True), ({"thinks": True}, True), ({"thinks": False}, False)]
)
def test_an_empty_thought_is_in_the_loss_unless_the_prompt_has_it(arguments, thought):
    """As Qwen3 does it."""
    block = "<think>\n\n</think>\n\n"
    template = THINKING + (
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinks is defined and not thinks %}"
        "{{ BLOCK }}{% endif %}{% endif %}"
    ).replace("BLOCK", repr(block))
    row = render(chat("a", "b", "c", "d"), tokenizer_with(template), arguments)
    assert row.text.endswith(f"<|im_start|>assistant\n{block}d<|im_end|>\n")
    assert loss_text(row) == ["b<|im_end|>", (block if thought else "") + "d<|im_end|>"]


class TestSpaceBeforeAnAnswer:
    """It is in the loss if the generation prompt does not end with it."""

    @staticmethod
    def lead(header: str, prompt: str, *, question: str = "hi", answer: str = "yes") -> str:
        template = (
            "{% for m in messages %}{{ 'U: ' + m.content + '\n' if m.role == 'user' else HEADER + m.content "
            "+ '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ PROMPT }}{% endif %}"
        )
        template = template.replace("HEADER", repr(header)).replace("PROMPT", repr(prompt))
        rows = [
            render(chat(*turns), tokenizer_with(template))
            for turns in ((question, answer), ("before", "no", question, answer))
        ]
        one, last = (loss_text(row)[-1] for row in rows)
        assert one == last
        return one.removesuffix("</s>").removesuffix(answer)

    @pytest.mark.parametrize(
        ("header", "prompt", "space"),
        [
            ("A: ", "A:", " "),
            ("A: ", "A: ", ""),
            ("A:\n", "A:\n", ""),
            ("A:\n ", "A:\n", " "),
            ("A:\n\n", "A:\n", "\n"),
            ("A: <t></t>\n", "A: ", "<t></t>\n"),  # words that the prompt leaves out are the model's, too
            ("A: ", "B:", ""),  # another prompt tells nothing
            ("A: ", "", " "),  # no prompt: spaces alone
            ("A:\n", "", ""),
            ("A:\n ", "", " "),
        ],
    )
    def test_as_the_prompt_leaves_it(self, header, prompt, space):
        assert self.lead(header, prompt) == space

    def test_whitespace_of_messages_is_not_taken_for_the_headers(self):
        assert self.lead("A: ", "A:", question="hi A: ", answer=" yes ") == " "
        assert self.lead("", "", question="hi ") == ""


def test_words_behind_an_answer_are_no_end_of_its_turn():
    """A special token ends the turn if nothing but whitespace stands before it."""
    template = (
        "{% for m in messages %}{{ '<s>' if m.role == 'user' and not loop.first }}{{ m.role }}: "
        "{{ m.content }}{{ '\n' if m.role == 'user' else '\n--\n' if loop.last else '\n--\nnext ' }}"
        "{% endfor %}"
    )
    assert loss_text(render(chat("a", "b", "c", "d"), tokenizer_with(template))) == [" b\n--\n", " d\n--\n"]


def test_a_header_that_ends_the_turn_is_in_the_loss():
    """Where the next turn's special token is what stops the model."""
    template = (
        "{% for m in messages %}{{ '[INST]' if m.role == 'user' else '[/INST]' }}{{ m.content }}{% endfor %}"
    )
    assert loss_text(render(chat("a", "b", "c", "d"), tokenizer_with(template))) == ["b[INST]", "d"]

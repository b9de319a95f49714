"""Where a template puts a space before an answer, the token that holds both is in the loss and in a chunk.

Mutants that these tests kill: loss spans from their first letter on; tokens across the beginning of an
answer left out of its chunks, or taken although words or clean text stand before it.
"""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.alignment.zoo import KINDS, tokenizer_of
from tests.chat import make_chat_tokenizer
from tide.alignment import ByteTable
from tide.data import Conversation, Message, Rejected
from tide.preparation import Side, align_answers, read_pairs

# The manner of Mistral: the generation prompt ends with the question's bracket, the space is the model's.
BRACKETS = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[ {{ m.content }} ]{% else %} {{ m.content }}<|end|>"
    "{% endif %}{% endfor %}"
)


def bracketed(kind: str, template: str = BRACKETS) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of(kind), eos_token="<|end|>", bos_token="<s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def conversation(*answers: str) -> Conversation:
    turns = [
        turn for answer in answers for turn in (Message("user", "for or in"), Message("assistant", answer))
    ]
    return Conversation(tuple(turns))


def sides(row: Conversation, student, teacher) -> tuple[Side, Side]:
    (pair,) = read_pairs([row], student, teacher, {})
    assert not isinstance(pair, Rejected)
    return pair


def tables(*tokenizers) -> tuple[ByteTable, ByteTable]:
    one, other = map(ByteTable.from_tokenizer, tokenizers)
    return one, other


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_covered_from_their_first_byte(kind, swapped):
    pair = [bracketed(kind), make_chat_tokenizer()]
    if swapped:
        pair.reverse()
    answers = ["return", "for value in values: return", "in"]
    one, other = sides(conversation(*answers), *pair)
    (found,) = align_answers([(one, other)], tables(*pair))
    text, alignment = "".join(answers).encode(), found.alignment
    assert (found.text, found.number) == (text, len(answers))
    begins = {0, len(answers[0]), len(answers[0] + answers[1])}
    assert begins <= set(alignment.starts.tolist())
    # Where the student drops blanks, words that begin with one are rejected, also at an answer's end.
    drops = (
        ByteTable.from_tokenizer(tokenizer_of(kind))
        .spans("in in", tokenizer_of(kind).encode("in in").ids)
        .rejected
        is not None
    )
    ends = {len(answers[0]), len(text)} if drops else begins - {0} | {len(text)}
    assert ends <= set(alignment.ends.tolist())
    assert (alignment.num_rejected > 0) == drops
    for side, chunks in ((one, alignment.student_chunks), (other, alignment.teacher_chunks)):
        assert side.tokens.loss_mask[chunks >= 0].all()
        assert set(chunks.tolist()) == {-1, *range(alignment.num_chunks)}


def test_some_of_those_tokenizers_join_the_space_with_the_word():
    """Otherwise they would show nothing."""
    tokens = [set(tokenizer_of(kind).encode("] for return").tokens) for kind in KINDS]
    assert any("▁for" in of_kind for of_kind in tokens) and any("Ġfor" in of_kind for of_kind in tokens)


def test_the_joined_token_is_in_the_loss_and_the_one_before_it_is_not():
    student = bracketed("BPE, byte fallback, prefix at the beginning")
    one, _ = sides(conversation("for value"), student, make_chat_tokenizer())
    tokens = student.convert_ids_to_tokens(one.tokens.token_ids)
    trained = [token for token, in_loss in zip(tokens, one.tokens.loss_mask, strict=True) if in_loss]
    assert "".join(trained) == "▁for▁value<|end|>" and trained[0].startswith("▁f")
    assert "".join(tokens).endswith("▁]" + "".join(trained))


@pytest.mark.parametrize(
    ("template", "answer", "covered_from"),
    [
        # The generation prompt holds the space: a token across its end is not the model's to write.
        (
            BRACKETS.replace("{% endfor %}", "{% endfor %}{% if add_generation_prompt %} {% endif %}"),
            "for value",
            3,
        ),
        # A letter of the template's own stands in the token.
        (BRACKETS.replace("} {{", "}{{ ' f' }}{{"), "or value", 2),
    ],
)
def test_other_tokens_across_the_beginning_are_context(template, answer, covered_from):
    student = bracketed("BPE, byte fallback, prefix at the beginning", template)
    teacher = make_chat_tokenizer()
    one, other = sides(conversation(answer), student, teacher)
    tokens = student.convert_ids_to_tokens(one.tokens.token_ids)
    trained = [token for token, in_loss in zip(tokens, one.tokens.loss_mask, strict=True) if in_loss]
    assert "".join(trained) == "▁value<|end|>" and "▁for" in tokens
    (found,) = align_answers([(one, other)], tables(student, teacher))
    assert found.alignment.starts[0] == covered_from

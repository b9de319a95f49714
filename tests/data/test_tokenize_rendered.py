"""Token ids of rendered rows and their loss mask: tokens that begin inside a loss span.

Where tokens begin is counted in bytes of their spelling here, not read off offsets. Mutants that these tests
kill: offsets that leave out a token's space taken as they are; tokens that only end in a span counted; the
blanks in front of every span read again.
"""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tests.alignment.samples import texts
from tests.alignment.test_linear_time import least
from tests.alignment.zoo import KINDS, tokenizer_of
from tests.data.templates import HEADERS, IM_START, PLAIN, STRIPPED_PLAIN, chat, tokenizer_with
from tests.plain_tokens import tokenize_rows
from tests.tiny import END, MASK, ROWS, make_tokenizer
from tide.alignment import ByteTable
from tide.data.conversation import Rejected, TextRow
from tide.data.rendering import Rendered, render
from tide.data.tokenize import tokenize_rendered


def spanning_tokenizer(*, words: bool, trims: bool) -> PreTrainedTokenizerFast:
    """Tokens that run over the ends of messages, with offsets that leave out spaces, or not.

    With `words` a space goes to the word after it; without, tokens also run over lines.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=trims)])
    texts = [
        "user: hi there \nassistant:  yes  \n",
        "  é 👩‍🚀  \nuser:   ",
        "User: a\nAssistant: b yes hi é\n",
    ] * 9
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


SPANNING = {
    (words, trims): spanning_tokenizer(words=words, trims=trims)
    for words in (False, True)
    for trims in (False, True)
}
words = st.lists(
    st.sampled_from([" ", "  ", "\n", "hi", "there", "user:", "é", "👩‍🚀", "yes  ", "\t", "a"]), max_size=6
).map("".join)


def loss_text(row: Rendered, tokenizer: PreTrainedTokenizerFast) -> str:
    (tokenized,) = tokenize_rendered([row], tokenizer)
    assert not isinstance(tokenized, Rejected)
    assert tokenized.token_ids.dtype == np.int64 and tokenized.loss_mask.dtype == np.bool_
    return tokenizer.decode(tokenized.token_ids[tokenized.loss_mask])


@given(turns=st.lists(st.tuples(words, words.filter(str.strip)), min_size=1, max_size=3))
@example(turns=[("hi", " yes  "), (" ", "  hi")])
@pytest.mark.parametrize("kind", SPANNING)
@pytest.mark.parametrize("template", [PLAIN, STRIPPED_PLAIN], ids=repr)
def test_tokens_that_begin_in_a_loss_span_are_in_the_loss_mask(template, kind, turns):
    tokenizer = SPANNING[kind]
    tokenizer.chat_template = template.source
    row = render(chat(*(text for turn in turns for text in turn)), tokenizer)
    (tokenized,) = tokenize_rendered([row], tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(tokenized.token_ids)
    assert len("".join(tokens)) == len(row.text.encode())
    spans = [tuple(len(row.text[:place].encode()) for place in span) for span in row.loss_spans]
    begin = 0
    for token, in_loss in zip(tokens, tokenized.loss_mask, strict=True):
        assert in_loss == any(start <= begin < end for start, end in spans), (begin, token)
        begin += len(token)


def folded(text: str) -> str:
    """What a normalizer leaves of a text: letters without case, width, marks and blanks around them."""
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return "".join(c for c in plain if unicodedata.category(c)[0] not in "MZC")


@settings(deadline=None, max_examples=60)
@given(question=texts, answer=texts.filter(lambda text: folded(text[:1]) and folded(text[-1:])))
@example(question="", answer="see ﷺ")
@example(question="SEE", answer="ﬁn HI \U0001f642漢字")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learnt_spells_the_answer(kind, question, answer):
    """By the letters that tokens spell, in whatever case and width, without the library's offsets."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of(kind), unk_token="[UNK]")
    text, start = f"[{question}][{answer}]", len(question) + 3
    row = Rendered(text, (text,), (), (), ((start, start + len(answer)),))
    (tokens,) = tokenize_rendered([row], tokenizer)
    table = ByteTable.from_tokenizer(tokenizer)
    ids = tokenizer.encode(row.text, add_special_tokens=False)
    pieces = [table.tokens[token_id] or table.special_text.get(token_id, b"") for token_id in ids]
    if folded(b"".join(pieces).decode(errors="replace")) != folded(row.text):
        return  # unknown tokens
    if isinstance(tokens, Rejected):  # for one character that is respelled as several words
        assert " " in unicodedata.normalize("NFKC", answer[-1]), tokens
        return
    first, last = len(folded(row.text[:start])), len(folded(row.text[: start + len(answer)]))
    spelled = b""
    for piece, in_loss in zip(pieces, tokens.loss_mask, strict=True):
        at = len(folded(spelled.decode(errors="ignore")))
        spelled += piece
        if folded(piece.decode(errors="replace")):
            assert in_loss == (first <= at < last), (piece, at, first, last)


def test_the_tokens_of_those_tests_run_over_the_ends_of_contents():
    """Otherwise they would show nothing."""
    text = "Assistant: yes  \nuser:   "
    assert "Ġyes" in SPANNING[True, True].tokenize(text)
    assert any(token.startswith(":Ġ") for token in SPANNING[False, True].tokenize(text))
    for words in (False, True):
        trimmed, whole = (
            SPANNING[words, trims](text, return_offsets_mapping=True) for trims in (True, False)
        )
        assert trimmed["offset_mapping"] != whole["offset_mapping"]


@pytest.mark.parametrize("template", [IM_START, HEADERS], ids=repr)
def test_special_tokens_of_the_template_are_single_tokens(template):
    tokenizer = tokenizer_with(template)
    end = "<|im_end|>" if template is IM_START else "<|eot_id|>"
    rows = [render(chat("hi", "é 👩‍🚀", "hi", "hi"), tokenizer), render(chat("x", "y"), tokenizer)]
    both = tokenize_rendered(rows, tokenizer)
    for row, tokenized in zip(rows, both, strict=True):
        assert tokenized.token_ids.tolist() == tokenizer.encode(row.text, add_special_tokens=False)
        assert tokenized.piece_lengths == (len(tokenized.token_ids),)
    assert tokenizer.decode(both[0].token_ids[both[0].loss_mask]) == f"é 👩‍🚀{end}hi{end}"
    assert (both[0].token_ids[both[0].loss_mask] == tokenizer.convert_tokens_to_ids(end)).sum() == 2


def test_the_mask_of_transformers_is_the_same():
    """Where a template marks what is generated, `apply_chat_template` tells the same tokens."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
        "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
        "{{ '\n' }}{% endfor %}"
    )
    tokenizer = tokenizer_with(template)
    conversation = chat("assistant\n", "user: 1 + 1", "assistant", "assistant")
    encoded = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in conversation.messages],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    (tokenized,) = tokenize_rendered([render(conversation, tokenizer)], tokenizer)
    assert tokenized.token_ids.tolist() == encoded["input_ids"]
    assert tokenized.loss_mask.tolist() == [bool(flag) for flag in encoded["assistant_masks"]]


def test_a_text_row_is_tokenized_as_text_rows_are(line_tokenizer):
    rendered = [render(row, line_tokenizer) for row in ROWS]
    whole = tokenize_rows(ROWS, line_tokenizer, max_length=100, block_size=1)
    for row, tokenized, (token_ids, maskable) in zip(
        ROWS, tokenize_rendered(rendered, line_tokenizer), whole, strict=True
    ):
        assert tokenized.token_ids.tolist() == token_ids.tolist()[:-1]
        assert tokenized.loss_mask.tolist() == maskable.tolist()[:-1]
        prompt = line_tokenizer.encode(row.prompt, add_special_tokens=False)
        assert tokenized.piece_lengths == (len(prompt), len(token_ids) - 1 - len(prompt))


def test_a_prefix_space_is_added_to_every_piece():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(
        ["the cat sat", "cat the sat"] * 5, trainers.BpeTrainer(vocab_size=30, show_progress=False)
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    (tokenized,) = tokenize_rendered([render(TextRow("the cat", "sat"), fast)], fast)
    tokens = fast.convert_ids_to_tokens(tokenized.token_ids)
    num_prompt = tokenized.piece_lengths[0]
    assert "".join(tokens[:num_prompt]) == "▁the▁cat" and "".join(tokens[num_prompt:]) == "▁sat"
    assert tokenized.loss_mask.tolist() == [at >= num_prompt for at in range(len(tokens))]


def test_a_tokenizer_that_drops_spaces_and_lowers_letters():
    """The token after a space that is dropped begins with its own first letter."""
    vocab = {word: at for at, word in enumerate(["[UNK]", "user", "hi", "assistant", "é", ":"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, "[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.chat_template = PLAIN.source
    row = render(chat("Hi", "E\u0301 hi", "hi", "HI"), fast)
    assert loss_text(row, fast).split() == ["é", "hi", "hi"]


def test_a_mask_token_in_the_text_rejects_its_row_alone():
    tokenizer = make_tokenizer(258)
    rows = [TextRow("a", "b"), TextRow(f"a{MASK}", "b"), TextRow("", f"b{MASK}"), TextRow("", f"c{END}")]
    first, *masked, last = tokenize_rendered([render(row, tokenizer) for row in rows], tokenizer)
    for bad in masked:
        assert isinstance(bad, Rejected) and bad.reason == "mask token in the text" and repr(MASK) in str(bad)
    assert len(first.token_ids) == 2 and last.loss_mask.tolist() == [True, True]


def test_empty_pieces_and_no_rows():
    tokenizer = make_tokenizer(258)
    assert tokenize_rendered([], tokenizer) == []
    (tokenized,) = tokenize_rendered([render(TextRow("", "ab"), tokenizer)], tokenizer)
    assert tokenized.piece_lengths == (0, 2) and tokenized.loss_mask.tolist() == [True, True]


def test_truncation_and_padding_stored_with_the_tokenizer_are_not_applied():
    tokenizer = make_tokenizer(258)
    tokenizer.backend_tokenizer.enable_truncation(max_length=3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    (tokenized,) = tokenize_rendered([render(TextRow("abcdef", "ghijkl"), tokenizer)], tokenizer)
    assert tokenized.piece_lengths == (6, 6)


def test_a_slow_tokenizer_is_an_error():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match=r"tokenize_rendered: Slow is not a fast tokenizer.*Load it with"):
        tokenize_rendered([render(TextRow("a", "b"), make_tokenizer(258))], Slow())


@pytest.mark.parametrize("kind", ["byte-level", "Unigram, NFKC, runs of spaces joined"])
@pytest.mark.parametrize(("question", "answer"), [("é ", "hi \n"), (" \n\t", " "), ("ﷺ ", "a")])
def test_four_times_the_answers_take_about_four_times_as_long(kind, question, answer):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of(kind))

    def seconds(turns: int) -> float:
        size, text = len(question + answer), (question + answer) * turns
        spans = tuple((at + len(question), at + size) for at in range(0, turns * size, size))
        row = Rendered(text, (text,), spans, (0,) * turns, spans)
        return least(lambda: tokenize_rendered([row], tokenizer))

    seconds(20)
    small, large = seconds(1000), seconds(4000)
    assert large < 8 * small + 0.02, f"{small:.3f} s, then {large:.3f} s"

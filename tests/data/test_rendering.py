"""Contents and loss spans in every template, beside segments that are written out by hand.

Mutants that these tests kill: contents found by their first occurrence; a template's stripping ignored;
loss spans that end with the content, or run to the next header.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from tests.data.templates import (
    FOLDED,
    HEADERS,
    IM_START,
    MARKED,
    PLAIN,
    STRIPPED_PLAIN,
    TEMPLATES,
    THINKING,
    Template,
    chat,
    tokenizer_with,
)
from tests.tiny import END, make_tokenizer
from tide.data.conversation import Conversation, Message, RejectedRow, TextRow
from tide.data.rendering import Rendered, check_chat_template, render, shared_contents

TOKENIZERS = {template: tokenizer_with(template) for template in TEMPLATES}

# What headers are made of, and what is easily taken for them.
FRAGMENTS = (
    *("user", "assistant", "system", "User: ", "Assistant: ", "\nassistant: ", "\n", "\n\n", " ", "\t"),
    *("<|im_end|>", "<|im_start|>assistant\n", "<|eot_id|>", "</s>", "[/INST]", "[INST] ", "<s>"),
    *("{{ m }}", "{% generation %}", "é", "👩‍🚀", "e\u0301", "你好", "\u2028", "0", "x"),
)
contents = st.lists(st.sampled_from(FRAGMENTS), max_size=5).map("".join)
answers = contents.filter(str.strip)


@st.composite
def conversations(draw) -> Conversation:
    messages = [Message("system", draw(contents))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages += [Message("user", draw(contents)), Message("assistant", draw(answers))]
    return Conversation(tuple(messages))


def loss_text(row: Rendered) -> list[str]:
    return [row.text[start:end] for start, end in row.loss_spans]


def content_text(row: Rendered) -> list[str]:
    return [row.text[start:end] for start, end in row.contents]


def moves_system(conversation: Conversation) -> bool:
    """FOLDED puts the system's message before the last question, behind the answers before that."""
    first, *rest = conversation.messages
    return first.role == "system" and bool(first.content.strip()) and len(rest) > 2


@given(conversation=conversations())
@example(
    chat(("system", ""), ("user", "user"), ("assistant", "user"), ("user", "\n"), ("assistant", "\n\n0"))
)
@example(chat("assistant\n", "assistant\n", "assistant\n", "assistant\n"))
@pytest.mark.parametrize("template", TEMPLATES, ids=repr)
def test_every_content_is_found_where_the_template_puts_it(template: Template, conversation):
    tokenizer = TOKENIZERS[template]
    if template is FOLDED and moves_system(conversation):
        with pytest.raises(RejectedRow, match=r"puts a message behind its answer: message 0"):
            render(conversation, tokenizer)
        return
    row = render(conversation, tokenizer)
    messages = [{"role": m.role, "content": m.content} for m in conversation.messages]
    assert row.text == tokenizer.apply_chat_template(messages, tokenize=False)
    assert row.pieces == (row.text,)
    places: dict[int, tuple[int, int]] = {}
    loss_spans: list[tuple[int, int]] = []
    at = 0
    for text, message, in_loss in template.segments(conversation.messages):
        end = at + len(text)
        assert row.text[at:end] == text
        if message is not None:
            places[message] = (at, end)
        if in_loss and loss_spans and loss_spans[-1][1] == at:
            loss_spans[-1] = (loss_spans[-1][0], end)
        elif in_loss:
            loss_spans.append((at, end))
        at = end
    assert at == len(row.text)
    assert row.loss_spans == tuple(loss_spans)
    for number, message in enumerate(conversation.messages):
        start, end = row.contents[number]
        offset = row.offsets[number]
        assert row.text[start:end] == message.content[offset : offset + end - start]
        if message.content.strip():
            assert (start, end) == places[number]
        else:
            assert start == end


@given(conversation=conversations().filter(lambda row: not moves_system(row)))
@pytest.mark.parametrize("pair", [(IM_START, HEADERS), (STRIPPED_PLAIN, FOLDED), (HEADERS, STRIPPED_PLAIN)])
def test_two_templates_share_the_same_text(pair, conversation):
    one, other = (render(conversation, TOKENIZERS[template]) for template in pair)
    strips = any(template in (HEADERS, STRIPPED_PLAIN) for template in pair)
    shared = shared_contents(one, other)
    assert len(shared) == len(conversation.messages)
    for message, ((start, end), (other_start, other_end)) in zip(conversation.messages, shared, strict=True):
        expected = message.content.strip() if strips else message.content
        assert one.text[start:end] == other.text[other_start:other_end] == expected


def test_contents_that_one_template_leaves_out_are_not_shared():
    without_system = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.role + m.content }}{% endif %}{% endfor %}"
    )
    conversation = chat(("user", "system"), ("assistant", "ok"), ("system", "user"))
    one, other = (render(conversation, tokenizer_with(t)) for t in (IM_START, without_system))
    assert content_text(other) == ["system", "ok", ""]
    for row, shared in zip((one, other), zip(*shared_contents(one, other), strict=True), strict=True):
        assert [row.text[start:end] for start, end in shared] == ["system", "ok", ""]


@pytest.mark.parametrize("role", ["developer", "tool", "system", "assistant"])
@pytest.mark.parametrize("shown", ["''", "'[' + m.role + ']'", "m.content.split('.')[0]"])
def test_what_precedes_an_answer_is_written_or_its_row_rejected(role, shown):
    """A message may not vanish, with its header or without, nor a part of it but a thought."""
    template = (
        f"{{% for m in messages %}}{{% if m.role == '{role}' and not loop.last %}}{{{{ {shown} }}}}"
        "{% else %}{{ m.role + m.content + '</s>' }}{% endif %}{% endfor %}"
    )
    turns = [Message("user", "How many?"), Message(role, "Words. No digits."), Message("assistant", "Two.")]
    row, tokenizer = Conversation(tuple(turns), context=frozenset([1])), tokenizer_with(template)
    with pytest.raises(RejectedRow, match=rf"leaves out a message: message 1 .* of role '{role}'"):
        render(row, tokenizer)
    blank = Conversation((turns[0], Message(role, " \n"), turns[2]), context=frozenset([1]))
    assert render(blank, tokenizer).text.endswith("assistantTwo.</s>")


@pytest.mark.parametrize("role", ["tool", "ipython", "assistant tool"])
def test_other_roles_are_context(role):
    conversation = chat("add", ("assistant", "call"), (role, '{"sum": 3}'), ("assistant", "3"))
    row = render(conversation, TOKENIZERS[IM_START])
    assert content_text(row) == ["add", "call", '{"sum": 3}', "3"]
    assert loss_text(row) == ["call<|im_end|>", "3<|im_end|>"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [(IM_START, "3<|im_end|>"), (MARKED, "3<|im_end|>\n"), (PLAIN, " 3\n"), (HEADERS, "3<|eot_id|>")],
)
def test_answers_in_the_prompt_are_context(template, expected):
    turns = chat("1", "2", "1", "3").messages
    assert loss_text(render(Conversation(turns, num_prompt=2), TOKENIZERS[template])) == [expected]


def test_a_text_row_has_two_pieces_and_needs_no_template():
    row = render(TextRow("one ", "two"), make_tokenizer(258))
    expected = Rendered("one two", ("one ", "two"), ((0, 4), (4, 7)), (0, 0), ((4, 7),))
    assert row == expected


def test_a_text_row_begins_as_its_tokenizer_begins_texts():
    tokenizer = make_tokenizer(258)
    tokenizer.bos_token = END
    assert render(TextRow("one ", "two"), tokenizer).text == "one two"  # it has the token, and adds none
    tokenizer = make_tokenizer(258)
    tokenizer.bos_token = END
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, tokenizer.bos_token_id)]
    )
    begun = f"{END}one "
    row, split = render(TextRow("one ", "two"), tokenizer), len(begun)
    contents = (len(END), split), (split, split + 3)
    assert row == Rendered(f"{begun}two", (begun, "two"), contents, (0, 0), contents[1:])
    assert tokenizer(begun, add_special_tokens=False)["input_ids"] == tokenizer("one ")["input_ids"]


@pytest.mark.parametrize(
    ("strip", "content", "shown"),
    [
        ("m.content.lstrip('\\n')", "\n\n  code\n", "  code\n"),
        ("m.content.rstrip()", " code \n", " code"),
        ("m.content.strip('\\n')", " \n code \n", " \n code "),
    ],
)
def test_whitespace_that_a_template_keeps_in_part(strip, content, shown):
    tokenizer = tokenizer_with(
        f"{{% for m in messages %}}{{{{ m.role + ':' + {strip} + '</s>' }}}}{{% endfor %}}"
    )
    row = render(chat("code", content), tokenizer)
    assert content_text(row) == ["code", shown]
    assert row.offsets == (0, content.index(shown))
    assert loss_text(row) == [shown + "</s>"]


class TestTemplatesThatLookIntoContents:
    """Their skeleton is another one; markers that are put into the contents find them."""

    tokenizer = tokenizer_with(THINKING)

    def test_a_block_that_the_template_adds_is_no_content(self):
        row = render(chat("<think>", "<think>\n"), self.tokenizer)
        assert row.text.endswith("assistant\n<think>\n\n</think>\n\n<think>\n<|im_end|>\n")
        assert loss_text(row) == ["<think>\n<|im_end|>"]

    def test_a_thought_that_is_left_out(self):
        row = render(chat("user", "<think>user</think>\n\nassistant", "assistant", "user"), self.tokenizer)
        assert content_text(row) == ["user", "assistant", "assistant", "user"]
        assert row.offsets == (0, 21, 0, 0)
        assert loss_text(row) == ["assistant<|im_end|>", "user<|im_end|>"]
        starts = [start for start, _ in row.contents]
        assert starts == sorted(starts) and row.text[: starts[1]].endswith("<|im_start|>assistant\n")

    def test_a_thought_that_is_shown_as_it_is(self):
        answer = "<think>\nwhy\n</think>\n\nso"
        row = render(chat("q", answer), self.tokenizer)
        assert content_text(row) == ["q", answer]
        assert loss_text(row) == [answer + "<|im_end|>"]

    def test_a_thought_that_is_written_otherwise_is_not_a_part(self):
        """The template shows it with other whitespace, so the answer is not what the row has."""
        with pytest.raises(RejectedRow, match="template: changes a message: message 1 "):
            render(chat("q", "<think>why</think>so"), self.tokenizer)

    def test_a_content_whose_ends_are_read(self):
        """A marker at either end would make another conversation of it."""
        reply = "<reply>assistant\nuser</reply>"
        row = render(chat("assistant", "user", reply, "assistant"), self.tokenizer)
        assert content_text(row) == ["assistant", "user", reply, "assistant"]
        assert loss_text(row) == ["user<|im_end|>", "assistant<|im_end|>"]

    @given(words=st.lists(st.sampled_from(["user", "assistant", "\n", "im_start"]), min_size=1, max_size=6))
    def test_repeated_words_are_not_mixed_up(self, words):
        text = "".join(words)
        row = render(chat(f"{text}0", "<think>0</think>1", f"{text}0", f"{text}0"), self.tokenizer)
        head = f"<|im_start|>user\n{text}0<|im_end|>\n<|im_start|>assistant\n"
        assert row.text.startswith(f"{head}1<|im_end|>\n{head}<think>")
        first, second = len(head), 2 * len(head) + len("1<|im_end|>\n")
        assert row.contents[1] == (first, first + 1)
        assert row.contents[2][1] == second - len("<|im_end|>\n<|im_start|>assistant\n")
        # What the template strips of the beginning is left out.
        assert loss_text(row)[1] == f"{text}0".lstrip("\n") + "<|im_end|>"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ raise_exception('no') }}", "template: refuses"),
        ("{{ messages[7].content }}", "template: refuses"),
        ("{{ messages[0].content.nothing() }}", "template: refuses"),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "template: a message twice"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "template: changes a message"),
        ("{% for m in messages %}{{ m.content[::-1] }}{% endfor %}", "template: changes a message"),
        ("{% for m in messages %}{{ m.content | length }}{% endfor %}", "template: changes a message"),
        ("{{ messages[0].content }}", "template: leaves out an answer"),
        ("{{ messages[0].content }}{% generation %}x{% endgeneration %}{{ messages[1].content }}",
         "template: no answer marked"),
        ("{% macro turn(m) %}head{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}"
         "{{ messages[0].content + ': ' }}{{ turn(messages[1]) }}", "template: marks a part of an answer"),
    ],
)  # fmt: skip
def test_a_row_that_the_template_does_not_show_is_rejected(template, reason):
    with pytest.raises(RejectedRow) as caught:
        render(chat("an answer?", "an answer"), tokenizer_with(template))
    assert caught.value.reason == reason
    with pytest.raises(ValueError, match=f"render: the chat template of the tokenizer fails .*{reason}"):
        check_chat_template(tokenizer_with(template))


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ("m.content | tojson", 'say "hi" now'),
        ("m.content | replace('-', '_')", "a-b c"),
        ("m.content | replace('\\n', ' ')", "first line\nsecond line"),
        ("m.content[2:] | upper ~ 'end'", "a bend"),
        ("m.content | truncate(9, true, '...')", "more than nine characters"),
        ("m.content[:4] + '-'", "more-"),  # its own end is cut off, and the template writes the same
    ],
)
def test_the_unchanged_end_of_a_message_is_no_part_of_it(changed, answer):
    template = f"{{% for m in messages %}}{{{{ m.role + ':' + ({changed}) + '</s>' }}}}{{% endfor %}}"
    with pytest.raises(RejectedRow, match="template: changes a message"):
        render(chat("why", answer), tokenizer_with(template))


def test_characters_of_the_template_are_not_taken_for_a_content():
    template = "{{ messages[0].content }}{{ messages[1].content.split('b')[-1] }}"
    row = render(chat("b", "abcd"), tokenizer_with(template))
    assert row.contents == ((0, 1), (1, 3)) and row.offsets == (0, 2)  # the b is the question's
    with pytest.raises(RejectedRow) as caught:  # here it looks like the answer's, too
        render(chat("b", "bcd"), tokenizer_with(template))
    assert str(caught.value) == "template: changes a message: two messages share a part of the text"


@pytest.mark.parametrize("header", ["<|Assistant|>", "<|Assistant|>:", "assistant\n", "assistant\n\n", "A: "])
@pytest.mark.parametrize("strip", ["", ".lstrip('\\n')", ".strip()"])
@pytest.mark.parametrize("space", ["", " ", "\n", "\n\n", "\n\n\n"])
def test_a_thought_is_left_out_whatever_stands_at_its_end(header, strip, space):
    template = (
        (
            "{% for m in messages %}{% if m.role == 'user' %}U:{{ m.content }}{% else %}{{ HEADER + "
            "m.content.split('</think>')[-1]STRIP + '</s>' }}{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}{{ HEADER }}{% endif %}"
        )
        .replace("HEADER", repr(header))
        .replace("STRIP", strip)
    )
    row = render(chat("q", f"<think>\nwhy?\n</think>{space}so it is"), tokenizer_with(template))
    shown = {"": space, ".strip()": ""}.get(strip, space.lstrip("\n")) + "so it is"
    assert row.text == f"U:q{header}{shown}</s>"
    assert content_text(row)[1] == shown and loss_text(row) == [shown + "</s>"]


def test_a_text_that_holds_the_marker_is_rejected():
    with pytest.raises(RejectedRow, match="template: marker in the text"):
        render(chat("Zq7x000001k5wV", "b"), TOKENIZERS[IM_START])


def test_a_missing_template_is_an_error_not_a_rejected_row():
    tokenizer = make_tokenizer(258)
    for check in (lambda: check_chat_template(tokenizer), lambda: render(chat("a", "b"), tokenizer)):
        with pytest.raises(
            ValueError, match=r"render: the tokenizer has no chat template.*Set tokenizer"
        ) as e:
            check()
        assert not isinstance(e.value, RejectedRow)


def test_a_template_is_read_when_it_is_used():
    tokenizer = tokenizer_with(IM_START)
    check_chat_template(tokenizer)
    assert loss_text(render(chat("a", "b"), tokenizer)) == ["b<|im_end|>"]
    tokenizer.chat_template = HEADERS.source
    assert loss_text(render(chat("a", "b"), tokenizer)) == ["b<|eot_id|>"]
    tokenizer.chat_template = {"default": IM_START.source, "tool_use": HEADERS.source}
    assert loss_text(render(chat("a", "b"), tokenizer)) == ["b<|im_end|>"]


def test_special_tokens_are_read_at_each_call():
    tokenizer = tokenizer_with("{% for m in messages %}{{ m.content + eos_token }}{% endfor %}")
    tokenizer.eos_token = "</s>"
    assert loss_text(render(chat("a", "b"), tokenizer)) == ["b</s>"]
    tokenizer.eos_token = "<|eot_id|>"
    assert loss_text(render(chat("a", "b"), tokenizer)) == ["b<|eot_id|>"]


def test_arguments_of_the_template():
    tokenizer = tokenizer_with("{{ date }}|{% for m in messages %}{{ m.content }}</s>{% endfor %}")
    assert render(chat("a", "b"), tokenizer, {"date": "1 May"}).text == "1 May|a</s>b</s>"
    assert render(chat("a", "b"), tokenizer).text == "|a</s>b</s>"

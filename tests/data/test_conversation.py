"""Mappings to rows, in every form, and one counted reason for each way they can be wrong."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tide.data.conversation import Conversation, Message, RejectedRow, TextRow, parse_row

PARTS = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "index": None}]
ASK, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
BOTH = (Message("user", "q"), Message("assistant", "a"))


SYSTEM = Message("system", "s")
PAST = {"system": "s", "history": [["q", "a"], {"role": "user", "content": "q"}, ANSWER]}


@pytest.mark.parametrize(
    ("value", "row"),
    [
        ({"messages": [ASK, ANSWER]}, Conversation(BOTH)),
        ({"messages": [ASK, ANSWER], "system": "s"}, Conversation((SYSTEM, *BOTH), 1)),
        ({"instruction": "q", "output": "a", **PAST}, Conversation((SYSTEM, *BOTH * 3), 5)),
        (
            {
                "messages": [{"role": "system", "content": "s"}, ASK, ANSWER, ASK, ANSWER | {"weight": 0}],
                **PAST,
            },
            Conversation((SYSTEM, *BOTH * 4), 5, frozenset([8])),
        ),
        (
            {
                "prompt": [{"role": "system", "content": "t"}, ASK, ANSWER],
                "completion": [ANSWER],
                "system": "s",
            },
            Conversation((SYSTEM, Message("system", "t"), *BOTH, BOTH[1]), 4),
        ),
        (
            {"messages": [ASK, ANSWER], "system": " ", "history": [], "tools": "[]", "images": None},
            Conversation(BOTH),
        ),
        ({"text": "t", "system": "s", "tools": "u"}, TextRow("", "t")),
        ({"messages": (ASK, ANSWER), "text": "rendered", "source": 3}, Conversation(BOTH)),
        ({"messages": None, "conversations": None, "text": "t"}, TextRow("", "t")),
        ({"prompt": "id of a prompt", "messages": [ASK, ANSWER]}, Conversation(BOTH)),
        ({"prompt": [ASK], "completion": [ANSWER]}, Conversation(BOTH, num_prompt=1)),
        (
            {"prompt": [ASK, ANSWER, ASK], "completion": [ANSWER]},
            Conversation(BOTH + BOTH, num_prompt=3),
        ),
        ({"instruction": "q", "output": "a"}, Conversation(BOTH)),
        ({"instruction": "q", "input": "", "output": "a", "text": "rendered"}, Conversation(BOTH)),
        (
            {"instruction": "q", "input": "i", "output": "a"},
            Conversation((Message("user", "q\n\ni"), BOTH[1])),
        ),
        ({"input": "i", "output": "o", "text": "t"}, TextRow("", "t")),
        ({"prompt": "p", "completion": " c "}, TextRow("p", " c ")),
        ({"prompt": "p", "completion": "c", "text": "pc"}, TextRow("p", "c")),
        ({"prompt": "p", "completion": None, "text": "t"}, TextRow("", "t")),
        ({"text": "t", "prompt": "only a prompt"}, TextRow("", "t")),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            Conversation(BOTH),
        ),
        ({"conversations": [ASK, ANSWER]}, Conversation(BOTH)),
        (
            {"conversations": [{"from": "system", "value": ""}, {"from": "gpt", "value": "a"}]},
            Conversation((Message("system", ""), Message("assistant", "a"))),
        ),
        (
            {"messages": [{"role": "assistant", "content": "a", "tool_calls": None, "name": "x"}]},
            Conversation((Message("assistant", "a"),)),
        ),
        (
            {"messages": [{"role": "user", "content": PARTS}, ANSWER]},
            Conversation((Message("user", "ab"), BOTH[1])),
        ),
        (
            {"messages": [ANSWER, {"role": "tool", "content": ""}]},
            Conversation((BOTH[1], Message("tool", ""))),
        ),
        # Answers outside the loss.
        (
            {"messages": [ASK, {**ANSWER, "weight": 0}, ASK, {**ANSWER, "weight": 1}]},
            Conversation(BOTH + BOTH, context=frozenset({1})),
        ),
        (
            {"messages": [ASK, {**ANSWER, "train": False}, ASK, {**ANSWER, "train": True, "weight": None}]},
            Conversation(BOTH + BOTH, context=frozenset({1})),
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "q", "weight": 0.0},
                    {"from": "gpt", "value": "a", "weight": 0.0},
                    {"from": "human", "value": "q", "weight": 0.5},
                    {"from": "gpt", "value": "a", "weight": 1.0},
                ]
            },
            Conversation(BOTH + BOTH, context=frozenset({1})),
        ),
        (
            {"prompt": [ASK], "completion": [{**ANSWER, "content": "", "weight": 0}, ASK, ANSWER]},
            Conversation((BOTH[0], Message("assistant", ""), *BOTH), 1, frozenset({1})),
        ),
        # What tables hold where a message has nothing beside its content.
        (
            {
                "messages": [
                    {**ASK, "tool_calls": [], "thinking": ""},
                    {
                        **ANSWER,
                        "function_call": {"name": None, "arguments": None},
                        "reasoning_content": " \n",
                    },
                ]
            },
            Conversation(BOTH),
        ),
    ],
)
def test_forms_of_rows(value, row):
    assert parse_row(value) == row


def answer(**changes: object) -> dict[str, object]:
    return {"messages": [ASK, {**ANSWER, **changes}]}


@pytest.mark.parametrize(
    ("value", "reason", "detail"),
    [
        ({}, "no known keys", "keys []"),
        ({"prompt": "p", "answer": "a"}, "no known keys", "keys ['answer', 'prompt']"),
        ({"completion": "c"}, "no known keys", "keys ['completion']"),
        ({"messages": []}, "no messages", "nothing is in messages"),
        ({"conversations": []}, "no messages", "nothing is in conversations"),
        ({"prompt": [], "completion": []}, "no messages", "nothing is in prompt and completion"),
        ({"messages": "hello"}, "wrong type", "messages is of type str"),
        ({"messages": {"role": "user"}}, "wrong type", "messages is of type dict"),
        ({"messages": ["hello"]}, "wrong type", "messages[0] is of type str"),
        ({"messages": [ASK, None]}, "wrong type", "messages[1] is null"),
        ({"prompt": "p", "completion": [ANSWER]}, "wrong type", "completion is"),
        ({"prompt": [ASK], "completion": "c"}, "wrong type", "completion is of type str"),
        ({"prompt": 1, "completion": "c"}, "wrong type", "prompt is of type int"),
        ({"text": 1}, "wrong type", "text is of type int"),
        ({"text": b"t"}, "wrong type", "text is of type bytes"),
        (answer(content=None), "wrong type", "the content of messages[1] is null"),
        (answer(content=3), "wrong type", "the content of messages[1] is of type int"),
        (answer(role=None), "wrong type", "messages[1] has no role"),
        (answer(role=""), "wrong type", "messages[1] has no role"),
        (answer(content=["a"]), "wrong type", "messages[1] has a part that is of type str"),
        (answer(content=[{"type": "text"}]), "wrong type", "messages[1] is null, not text"),
        (answer(content=[{"type": "image", "url": "x"}]), "parts other than text", "part of type 'image'"),
        (answer(tool_calls=[{"name": "f"}]), "tool calls", "messages[1] has tool_calls"),
        (answer(function_call={"name": "f", "arguments": None}), "tool calls", "has function_call"),
        (answer(role="function_call"), "tool calls", "messages[1] is a function_call"),
        (
            {"conversations": [{"from": "function_call", "value": "{}"}, {"from": "gpt", "value": "a"}]},
            "tool calls",
            "conversations[0] is a function_call",
        ),
        (answer(reasoning_content="hm"), "reasoning", "messages[1] has reasoning_content"),
        (answer(reasoning="hm"), "reasoning", "messages[1] has reasoning"),
        ({"messages": [{**ASK, "thinking": "hm"}, ANSWER]}, "reasoning", "messages[0] has thinking"),
        (answer() | {"tools": '[{"name": "f"}]'}, "tools", "tools beside the messages"),
        (answer() | {"images": ["x"]}, "parts other than text", "images beside the messages"),
        (answer() | {"documents": [{"text": "d"}]}, "documents", "documents beside the messages"),
        (answer() | {"system": 3}, "wrong type", "system is of type int"),
        (answer() | {"history": "q"}, "wrong type", "history is of type str"),
        (answer() | {"history": [["q"]]}, "wrong type", "history[0] is no message"),
        ({"prompt": "p", "completion": "c", "system": "s"}, "context beside a text", "system beside"),
        ({"messages": [{**ASK, "name": "Ann"}, ANSWER]}, "name of a speaker", "messages[0] has a name"),
        ({"messages": [{**ASK, "images": ["x"]}, ANSWER]}, "parts other than text", "messages[0] has images"),
        (answer(weight=0.5), "weight of a message", "messages[1] has weight 0.5, expected 0 or 1"),
        (answer(weight="0"), "weight of a message", "has weight '0'"),
        (answer(train="no"), "weight of a message", "has train 'no'"),
        (answer(weight=0), "no answer", "roles ['user', 'assistant'], context [1]"),
        ({"messages": [ASK]}, "no answer", "roles ['user']"),
        ({"messages": [ASK, {"role": "Assistant", "content": "a"}]}, "no answer", "'Assistant'"),
        ({"prompt": [ASK, ANSWER], "completion": [ASK]}, "no answer", ""),
        (answer(content=""), "empty answer", "one of 1"),
        (answer(content=" \n"), "empty answer", "one of 1"),
        ({"messages": [ASK, {**ANSWER, "content": ""}, ASK, ANSWER]}, "empty answer", "one of 2"),
        ({"prompt": "p", "completion": ""}, "empty answer", "completion is blank"),
        ({"prompt": "p", "completion": " \n"}, "empty answer", "completion is blank"),
        ({"text": ""}, "empty answer", "text is blank"),
        ({"text": "   "}, "empty answer", "text is blank"),
        ({"text": "a\ud83d"}, "half a surrogate pair", r"text has '\ud83d'"),
        ({"prompt": "\udc00", "completion": "c"}, "half a surrogate pair", "prompt has"),
        (answer(content="\ud800b"), "half a surrogate pair", "messages[1] has"),
        (answer(role="\ud800"), "half a surrogate pair", "messages[1] has"),
    ],
)
def test_a_mapping_in_no_form_is_rejected_with_a_reason(value, reason, detail):
    with pytest.raises(RejectedRow) as caught:
        parse_row(value)
    assert caught.value.reason == reason
    assert detail in str(caught.value)
    assert str(caught.value).startswith(reason)
    str(caught.value).encode()


def test_an_answer_in_the_prompt_may_be_blank():
    blank = {**ANSWER, "content": ""}
    row = parse_row({"prompt": [ASK, blank, ASK], "completion": [ANSWER]})
    assert [row.is_answer(at) for at in range(4)] == [False, False, False, True]


MESSAGE_KEYS = [
    "role",
    "content",
    "from",
    "value",
    "type",
    "text",
    "weight",
    "train",
    "thinking",
    "tool_calls",
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MESSAGE_KEYS), inner),
    max_leaves=8,
)


@given(
    value=st.dictionaries(
        st.sampled_from(["messages", "conversations", "prompt", "completion", "text"]), anything
    )
)
def test_a_strange_value_raises_nothing_but_RejectedRow(value):
    try:
        row = parse_row(value)
    except RejectedRow as error:
        assert error.reason
    else:
        assert isinstance(row, TextRow | Conversation)


def test_a_rejected_row_can_be_pickled():
    copy = pickle.loads(pickle.dumps(RejectedRow("not JSON", "rows.jsonl:3")))
    assert (copy.reason, copy.detail, str(copy)) == ("not JSON", "rows.jsonl:3", "not JSON: rows.jsonl:3")

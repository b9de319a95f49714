"""Texts and rows as typed, and samples of a source."""

from __future__ import annotations

import json

import pytest

from tests.tiny import make_tokenizer
from tide.data import Conversation, Message, TextRow, open_source
from tide.inspection import Aligner, sampled, typed_row
from tide.preparation import Dropped


def test_a_text_is_plain():
    assert typed_row("def f(): {}") == TextRow("", "def f(): {}")
    assert typed_row("a\\nb") == TextRow("", "a\\nb")
    assert typed_row("a\\nb", escapes=True) == TextRow("", "a\nb")
    for text in ('"quoted"', "[1, 2]", "7", "{broken"):
        assert typed_row(text) == TextRow("", text)


def test_an_object_is_a_row():
    row = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a\nb"}]}
    expected = Conversation((Message("user", "q"), Message("assistant", "a\nb")))
    assert typed_row(json.dumps(row), escapes=True) == expected
    assert typed_row('{"prompt": "p", "completion": "c"}') == TextRow("p", "c")


@pytest.mark.parametrize(("text", "message"), [("", "got an empty one"), ('{"a": 1}', "the row is unfit")])
def test_what_is_no_row_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        typed_row(text)


def test_a_sample_goes_evenly_through_the_source(tmp_path):
    lines = [json.dumps({"prompt": "", "completion": f"x{n}"}) for n in range(200)]
    lines[199] = json.dumps({"completion": 3})
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    source = open_source(tmp_path / "rows.jsonl")
    align = Aligner(make_tokenizer(300), make_tokenizer(340))
    found = list(sampled(source, 5, align))
    assert [number for number, _ in found] == [0, 49, 99, 149, 199]
    texts = ["".join(t.text for t in row.student) for _, row in found[:-1]]
    assert texts == ["x0", "x49", "x99", "x149"]
    assert isinstance(found[-1][1], Dropped)
    everything = list(sampled(source, 1000, align))
    assert [number for number, _ in everything] == list(range(200))
    assert "".join(t.text for t in everything[131][1].teacher) == "x131"
    assert [number for number, _ in sampled(source, 1, align)] == [0]

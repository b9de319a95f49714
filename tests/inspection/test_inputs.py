"""Texts and rows as typed, and samples of a source."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.flow.recipes import tiny_values
from tests.tiny import make_tokenizer
from tide.config import Recipe
from tide.data import Conversation, Message, Rejected, TextRow, open_source
from tide.inspection import Aligner, MixedRows, sampled, typed_row
from tide.preparation import Preparation


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


@pytest.mark.parametrize(("text", "message"), [("", "got an empty one"), ('{"a": 1}', "row rejected")])
def test_bad_rows_are_refused(text, message):
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
    assert isinstance(found[-1][1], Rejected)
    everything = list(sampled(source, 1000, align))
    assert [number for number, _ in everything] == list(range(200))
    assert "".join(t.text for t in everything[131][1].teacher) == "x131"
    assert [number for number, _ in sampled(source, 1, align)] == [0]


@pytest.mark.parametrize("num_rows", [150, 1000])
def test_bad_rows_shift_no_row_of_a_sample(tmp_path, num_rows):
    """Over several reads: rows that cannot be read, and rows that cannot be aligned, each with its number."""
    unreadable = {number for number in range(200) if number % 7 == 3 or number in (0, 63, 64, 127, 128)}
    masked = {number for number in range(200) if number % 11 == 5} - unreadable
    texts = ["<|mask|>" if number in masked else f"x{number}" for number in range(200)]
    rows = [{"completion": 3} if n in unreadable else {"text": text} for n, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    align = Aligner(make_tokenizer(300), make_tokenizer(340))
    found = list(sampled(open_source(tmp_path / "rows.jsonl"), num_rows, align))
    assert len(found) == min(num_rows, 200)
    for number, row in found:
        if number in unreadable | masked:
            reason = "no known keys" if number in unreadable else "mask token in the text"
            assert isinstance(row, Rejected) and row.reason == reason
        else:
            assert "".join(token.text for token in row.student) == f"x{number}"


def test_rows_of_a_recipe_are_those_that_are_prepared(tiny_checkpoints, tmp_path):
    for name, first in (("a", 0), ("b", 100)):
        lines = [json.dumps({"text": f"{name}{number}"}) for number in range(first, first + 100)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    values = tiny_values(tiny_checkpoints, tmp_path / "run", "tide_cross")
    values["data"] = {
        "max_length": 48,
        "sources": [
            {"path": str(tmp_path / "a.jsonl"), "weight": 0.5},
            {"path": str(tmp_path / "b.jsonl"), "answer_contains": "b11"},
        ],
    }
    recipe = Recipe.from_dict(values)
    rows = MixedRows.of(recipe)
    assert len(rows) == 60
    preparation = Preparation.of(recipe)
    assert rows.rows(np.arange(60)) == preparation.mixture.read(preparation.sources, 0, 60)
    found = list(sampled(rows, 30, Aligner(make_tokenizer(300), make_tokenizer(340))))
    texts = {number: "".join(token.text for token in row.student) for number, row in found}
    assert len(texts) == 30 and {text[0] for text in texts.values()} == {"a", "b"}
    for number, text in texts.items():
        assert rows.where(number) == f"{tmp_path / text[0]}.jsonl:{int(text[1:]) % 100 + 1}"
    assert all(text.startswith("b11") for text in texts.values() if text[0] == "b")

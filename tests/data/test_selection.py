"""Rows chosen by their answers: the right ones, in order, with their own places; rejected ones stay."""

from __future__ import annotations

import json
import pickle

import pytest

from tide.data import Rejected, open_source

ROWS = [
    {"text": "no"},
    {"prompt": "python", "completion": "ruby"},
    {"prompt": "", "completion": "a python"},
    {"messages": [{"role": "user", "content": "python"}, {"role": "assistant", "content": "yes"}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "```python\n```"}]},
    {"messages": []},
    {"instruction": "write", "output": "in Python"},
    {"instruction": "write", "output": "in python"},
    {
        "prompt": [{"role": "assistant", "content": "python"}],
        "completion": [{"role": "assistant", "content": "no"}],
    },
    {
        "messages": [
            {"role": "assistant", "content": "python", "weight": 0},
            {"role": "assistant", "content": "no"},
        ]
    },
]


@pytest.fixture
def source(tmp_path):
    lines = [*map(json.dumps, ROWS), "{broken"]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return open_source(tmp_path / "rows.jsonl")


def test_rows_with_the_text_in_an_answer_and_rejected_rows_are_selected(source):
    found = source.with_answer("python")
    assert len(found) == 5
    rows = found.rows(range(5))
    assert rows[:4] == [ROWS[2], ROWS[4], ROWS[5], ROWS[7]] and isinstance(rows[4], Rejected)
    assert found.rows([3, 0, 3]) == [ROWS[7], ROWS[2], ROWS[7]]
    assert [found.where(at) for at in range(5)] == [source.where(at) for at in (2, 4, 5, 7, 10)]
    assert (found.name, found.files) == (source.name, source.files)
    assert found.fingerprint() != source.fingerprint()


def test_another_process_reads_the_same(source):
    found = source.with_answer("python")
    assert pickle.loads(pickle.dumps(found)).rows([1]) == found.rows([1])


def test_an_index_out_of_range_is_an_error(source):
    with pytest.raises(IndexError):
        source.with_answer("python").rows([5])


@pytest.mark.parametrize(
    ("lines", "rows"),
    [
        (['{"text": "a"}', '{"text": "b"}'], "2 rows"),
        (['{"text": "a Python"}', '{"text": "PYTHON"}'], "2 rows"),
        # A row that is unfit is kept, and hides nothing.
        (['{"text": "a"}', "{broken", '{"text": ""}'], r"3 rows \(2 of them rejected\)"),
        (["{broken"], r"1 rows \(1 of them rejected\)"),
    ],
)
def test_a_text_in_no_answer_is_an_error(tmp_path, lines, rows):
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"no answer in the {rows} of .* contains 'python'"):
        open_source(tmp_path / "rows.jsonl").with_answer("python")

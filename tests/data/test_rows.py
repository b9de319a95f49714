"""JSON lines to rows, and one error with file and line for each way they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import ROWS, write_rows
from tide.data import TextRow, read_rows

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_rows_are_read_in_order(file):
    assert read_rows(write_rows(file)) == list(ROWS)
    assert read_rows(str(file)) == list(ROWS)


def test_text_alone_is_a_completion_without_prompt(file):
    file.write_text('{"text": "a b"}\n\n   \n{"prompt": "p", "completion": "c", "source": "web"}')
    assert read_rows(file) == [TextRow("", "a b"), TextRow("p", "c")]


def test_windows_files_are_read(file):
    file.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}\r\n')
    assert read_rows(file) == [TextRow("", "a"), TextRow("", "b")]


@given(rows=st.lists(st.tuples(texts, texts.filter(bool)), min_size=1, max_size=4), escaped=st.booleans())
def test_every_text_comes_back(tmp_path_factory, rows, escaped):
    """Also with line separators other than the newline: JSON leaves U+2028 and U+0085 as they are."""
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = [*rows, ("a\u2028b\u0085c", "\u2029\r\n\x0c")]
    lines = [json.dumps({"prompt": p, "completion": c}, ensure_ascii=escaped) for p, c in rows]
    file.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert read_rows(file) == [TextRow(*row) for row in rows]


EXPECTED = r'Expected \{"prompt": \.\.\., "completion": \.\.\.\} or \{"text": \.\.\.\} with strings\.'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"text": "a"',
            r" is not JSON \(Expecting ',' delimiter at column 13\)\. Write one object a line\.",
        ),
        ("text", r" is not JSON \(Expecting value at column 1\)"),
        ('{"text": "a"} {"text": "b"}', r" is not JSON \(Extra data at column 15\)"),
        ('["a"]', rf" is a JSON list, not an object\. {EXPECTED}"),
        ('"a"', rf" is a JSON str, not an object\. {EXPECTED}"),
        ("null", r" is a JSON NoneType, not an object"),
        ('{"completion": "c"}', rf" has keys \['completion'\]\. {EXPECTED}"),
        ('{"prompt": "p"}', rf" has keys \['prompt'\]\. {EXPECTED}"),
        ('{"prompt": "p", "completion": null}', r" has keys \['completion', 'prompt'\]"),
        ('{"prompt": 1, "completion": "c"}', r" has keys \['completion', 'prompt'\]"),
        ('{"text": ["a"]}', r" has keys \['text'\]"),
        ("{}", r" has keys \[\]"),
        ('{"prompt": "p", "completion": ""}', r" has an empty completion\. Drop the row"),
        ('{"text": ""}', r" has an empty completion\. Drop the row"),
        ('{"text": "a\\ud83d"}', r" has half of a surrogate pair .* Drop the row"),
        ('{"prompt": "\\udc00", "completion": "c"}', r" has half of a surrogate pair"),
    ],
)
def test_a_line_that_is_no_row_is_named(file, line, message):
    file.write_text(f'{{"text": "good"}}\n\n{line}\n{{"text": "good"}}\n')
    with pytest.raises(ValueError, match=rf"read_rows: .*rows\.jsonl:3{message}") as caught:
        read_rows(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file(file):
    with pytest.raises(ValueError, match=r"read_rows: no file at .*rows\.jsonl.* Give a JSON-lines file"):
        read_rows(file)


def test_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"read_rows: .* cannot be read as UTF-8 text \(.*directory"):
        read_rows(tmp_path)


def test_another_encoding(file):
    file.write_bytes('{"text": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"read_rows: .* cannot be read as UTF-8 text .* Save it as UTF-8\."):
        read_rows(file)


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_a_file_without_rows(file, content):
    file.write_text(content)
    with pytest.raises(ValueError, match=r"read_rows: .*rows\.jsonl.* holds no rows\. Write one JSON object"):
        read_rows(file)

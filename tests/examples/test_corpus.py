"""The corpus is the standard library's functions, and no module is on both sides of the split."""

from __future__ import annotations

import ast
import json

import pytest

from examples.quickstart.corpus import functions_in, is_held_out, split_functions, write_rows
from tide.data import open_source, parse_row

SOURCE = '''
def one_line(x): return x

class Box:
    @property
    def volume(
        self,
    ) -> float:
        """Three sides, multiplied."""
        # In cubic metres.
        return self.width * self.height * self.depth * self.scale ** 3

async def fetch(client, url, *, timeout=30.0, retries=3):
    # A comment before the first statement.
    for attempt in range(retries):
        return await client.get(url, timeout=timeout)

def tiny():
    pass
'''


@pytest.fixture(scope="module")
def split():
    return split_functions()


def test_a_function_splits_into_signature_and_rest(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(SOURCE)
    found = dict(functions_in(path))
    assert set(found) == {
        "def volume(\n    self,\n) -> float:\n",
        "async def fetch(client, url, *, timeout=30.0, retries=3):\n",
    }
    body = found["async def fetch(client, url, *, timeout=30.0, retries=3):\n"]
    assert body.startswith("    # A comment before the first statement.\n    for attempt") and body.endswith(
        ")\n"
    )
    for prompt, completion in found.items():
        ast.parse(prompt + completion)


def test_a_file_that_does_not_parse_gives_no_rows(tmp_path):
    path = tmp_path / "m.py"
    path.write_bytes(b"\xff\xfe def f(")
    assert functions_in(path) == []


def test_the_split_depends_on_names_alone():
    assert {name: is_held_out(name) for name in ("json", "collections", "asyncio", "email", "tkinter")} == {
        "json": True,
        "collections": True,
        "asyncio": False,
        "email": False,
        "tkinter": True,
    }


def test_no_module_and_no_text_is_on_both_sides(split):
    train, held_out = split
    assert len(train) > 3000 and len(held_out) > 300
    assert {row.module for row in train}.isdisjoint({row.module for row in held_out})
    texts = [row.prompt + row.completion for row in train + held_out]
    assert len(set(texts)) == len(texts)
    assert all(96 <= len(text.encode()) <= 1600 for text in texts)


def test_most_rows_are_python(split):
    def parses(text):
        try:
            ast.parse(text)
        except SyntaxError:
            return False
        return True

    rows = split[0][::20]
    assert sum(parses(row.prompt + row.completion) for row in rows) > 0.95 * len(rows)


def test_rows_are_read_back_as_written(split, tmp_path):
    rows = split[1][:50]
    write_rows(rows, tmp_path / "rows.jsonl")
    read = [parse_row(row) for _, row in open_source(tmp_path / "rows.jsonl")]
    assert [(row.prompt, row.completion) for row in read] == [(row.prompt, row.completion) for row in rows]
    assert json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])["module"] == rows[0].module

"""Rejected rows: the error where none is left, and the files that hold them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.preparation.prepared import files, prepare, recipe_of
from tide.preparation import ShardDirectory, held_out_examples, load_tokenizers, training_data

if TYPE_CHECKING:
    from pathlib import Path


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def said(call) -> str:
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


EMPTY, UNKNOWN, BROKEN = '{"text": " "}', '{"Text": "x"}', '{"text": '
LONG = json.dumps({"prompt": "p" * 100, "completion": "c"})


@pytest.mark.parametrize(
    ("lines", "reasons", "first", "remedy"),
    [
        ([EMPTY], "empty answer 1", "1: empty answer: text is blank", ""),
        (
            [UNKNOWN, EMPTY, EMPTY],
            "empty answer 2, no known keys 1",
            "1: no known keys: keys ['Text'], expected messages, conversations, prompt and completion, "
            "instruction and output, or text",
            "",
        ),
        (["", BROKEN], "not JSON 1", "2: not JSON: Expecting value at column 10", ""),
        (
            [EMPTY, LONG],
            "empty answer 1, nothing to learn within max_length 1",
            "1: empty answer: text is blank",
            ", or raise data.max_length",
        ),
    ],
)
def test_the_error_without_examples_names_the_first_rejected_row(
    tiny_checkpoints, tmp_path, lines, reasons, first, remedy
):
    rows = write(tmp_path / "rows.jsonl", *lines)
    num_rows = sum(map(bool, lines))
    begin = f"prepare: none of {num_rows} rows makes an example ({reasons}). The first, {rows}:{first}."
    end = f" Correct the data{remedy}."
    on_disk = recipe_of(tiny_checkpoints, tmp_path, "none", train=str(rows))
    rejects = tmp_path / "prepared" / "part-00000.rejects.jsonl"
    assert said(lambda: prepare(on_disk, workers=1)) == (f"{begin} All are listed in {str(rejects)!r}.{end}")
    assert len(rejects.read_text().splitlines()) == num_rows
    in_memory = recipe_of(tiny_checkpoints, tmp_path, "none", train=str(rows), prepared=None)
    tokenizers = load_tokenizers(in_memory)
    assert said(lambda: training_data(in_memory, tokenizers)) == begin + end
    held_out = recipe_of(tiny_checkpoints, tmp_path, "none", held_out=str(rows))
    assert said(lambda: held_out_examples(held_out, tokenizers)) == begin + end


def test_several_files_of_rejected_rows_are_named_by_a_glob(tiny_checkpoints, tmp_path):
    rows = write(tmp_path / "rows.jsonl", *[EMPTY] * 9)
    message = said(lambda: prepare(recipe_of(tiny_checkpoints, tmp_path, train=str(rows)), workers=1))
    assert f" listed in '{tmp_path / 'prepared' / 'part-*.rejects.jsonl'}'. Correct" in message
    assert len(list((tmp_path / "prepared").glob("part-*.rejects.jsonl"))) == 3
    assert f"The first, {rows}:1: " in message


def test_missing_rejected_rows_are_written_again(tiny_checkpoints, tmp_path):
    lines = [*tiny_checkpoints.rows.read_text().splitlines(), EMPTY]
    recipe = recipe_of(tiny_checkpoints, tmp_path, train=str(write(tmp_path / "rows.jsonl", *lines)))
    manifest = prepare(recipe, workers=1)
    before = files(tmp_path / "prepared")
    rejects = tmp_path / "prepared" / "part-00002.rejects.jsonl"
    assert ShardDirectory(tmp_path / "prepared").rejects_glob() == str(rejects)
    rejects.unlink()
    heard = []
    assert prepare(recipe, workers=1, log=heard.append) == manifest
    assert heard == [f"{tmp_path / 'prepared'} holds 2 of 3 shards already; resuming"]
    assert files(tmp_path / "prepared") == before


def test_prepared_data_without_its_plan_is_replaced_and_nothing_else(tiny_checkpoints, tmp_path):
    recipe, directory = recipe_of(tiny_checkpoints, tmp_path), tmp_path / "prepared"
    manifest = prepare(recipe, workers=1)
    expected = files(directory)
    mine = {"thesis.txt": b"precious", "part-1.json": b"{}", "part-time.arrow": b"", "draft.new": b"x"}
    for name, content in mine.items():
        (directory / name).write_bytes(content)
    (directory / "part-00007.arrow").write_bytes(b"of more rows")
    (directory / "plan.json").unlink()
    before = files(directory)
    message = said(lambda: prepare(recipe, workers=1))
    assert "plan.json is missing" in message and "--overwrite" in message and files(directory) == before
    assert prepare(recipe, workers=1, overwrite=True) == manifest
    assert files(directory) == expected | mine


@pytest.mark.parametrize("lost", ["shards", "manifest", "format"])
def test_files_of_another_program_are_never_replaced(tiny_checkpoints, tmp_path, lost):
    recipe, directory = recipe_of(tiny_checkpoints, tmp_path), tmp_path / "prepared"
    prepare(recipe, workers=1)
    (directory / "plan.json").unlink()
    manifest = directory / "manifest.json"
    if lost == "shards":
        for file in directory.glob("part-*.arrow"):
            file.unlink()
    if lost == "manifest":
        manifest.write_text('{"files": 3}')
    if lost == "format":
        manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    before = files(directory)
    message = said(lambda: prepare(recipe, workers=1, overwrite=True))
    assert message.endswith("holds files that are no prepared data. Name another directory.")
    assert files(directory) == before

"""Shards are a function of the recipe and its data: not of workers, of an interruption, or of the run."""

from __future__ import annotations

import json
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
import torch

from tests.flow.recipes import tiny_values
from tests.tiny import ROWS
from tide.config import Recipe
from tide.data import Manifest, ShardedExamples
from tide.preparation import load_tokenizers, training_data
from tide.preparation import prepare as prepare_rows
from tide.preparation.prepare import Preparation, _made

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tiny import TinyCheckpoints

prepare = partial(prepare_rows, shard_rows=4)


def recipe_of(checkpoints: TinyCheckpoints, tmp_path: Path, method: str = "tide_cross", **data) -> Recipe:
    values = tiny_values(checkpoints, tmp_path / "run", method)
    values["data"] |= {"prepared": str(tmp_path / "prepared"), **data}
    return Recipe.from_dict(values)


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def equal(one, other) -> bool:
    pairs = [(one.student, other.student), (one.teacher, other.teacher)]
    return one.num_chunks == other.num_chunks and all(
        (a is None) == (b is None)
        and (
            a is None
            or all(
                torch.equal(getattr(a, name), getattr(b, name))
                for name in ("token_ids", "maskable", "chunks")
            )
        )
        for a, b in pairs
    )


@pytest.fixture
def bad_rows(tmp_path: Path) -> Path:
    """Ten rows of which four make no example, among the eight that do."""
    good = [json.dumps({"prompt": row.prompt, "completion": row.completion}).encode() for row in ROWS]
    bad = [
        b'{"prompt": "a", "completion": ""}',
        b'{"messages": []}',
        b"\xff\xfe not UTF-8",
        b'{"prompt": 3, "completion": "x"}',
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([good[0], bad[0], bad[1], *good[1:5], bad[2], *good[5:], bad[3]]) + b"\n")
    return path


@pytest.mark.parametrize("method", ["none", "tide_shared", "tide_cross"])
def test_shards_hold_the_examples_that_memory_would(tiny_checkpoints, tmp_path, method):
    recipe = recipe_of(tiny_checkpoints, tmp_path, method)
    manifest = prepare(recipe, workers=1)
    assert [shard.examples for shard in manifest.shards] == [4, 4]
    tokenizers = load_tokenizers(recipe)
    on_disk = training_data(recipe, tokenizers)
    assert isinstance(on_disk.examples, ShardedExamples)
    in_memory = training_data(recipe_of(tiny_checkpoints, tmp_path, method, prepared=None), tokenizers)
    assert on_disk.counts == in_memory.counts and on_disk.counts.kept == len(ROWS)
    assert all(equal(*pair) for pair in zip(on_disk.examples, in_memory.examples, strict=True))


def test_bytes_are_the_same_again_and_with_more_workers(tiny_checkpoints, tmp_path, bad_rows):
    written = []
    for number, workers in enumerate([1, 1, 2]):
        prepare(
            recipe_of(tiny_checkpoints, tmp_path, train=str(bad_rows), prepared=str(tmp_path / f"p{number}")),
            workers=workers,
        )
        written.append(files(tmp_path / f"p{number}"))
    assert written[0] == written[1] == written[2]
    assert {"manifest.json", "plan.json", "part-00000.arrow", "part-00002.arrow"} <= written[0].keys()


def test_an_interrupted_preparation_goes_on(tiny_checkpoints, tmp_path, bad_rows, monkeypatch):
    recipe = recipe_of(tiny_checkpoints, tmp_path, train=str(bad_rows))
    prepare(recipe, workers=1)
    expected = files(tmp_path / "prepared")
    for file in (tmp_path / "prepared").iterdir():
        file.unlink()

    whole, made = Preparation.write_part, []

    def until_the_second(self, number, directory):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(number)
        return whole(self, number, directory)

    monkeypatch.setattr(Preparation, "write_part", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, workers=1)
    with pytest.raises(ValueError, match=r"manifest\.json' is not finished"):
        training_data(recipe, load_tokenizers(recipe))
    (tmp_path / "prepared" / "part-00001.arrow").write_bytes(b"torn")

    again = []
    monkeypatch.setattr(
        Preparation, "write_part", lambda self, n, where: (again.append(n), whole(self, n, where))[1]
    )
    prepare(recipe, workers=1)
    assert made == [0] and again == [1, 2]
    assert files(tmp_path / "prepared") == expected
    prepare(recipe, workers=1)
    assert again == [1, 2]


def test_bad_rows_are_counted_and_set_aside(tiny_checkpoints, tmp_path, bad_rows):
    manifest = prepare(recipe_of(tiny_checkpoints, tmp_path, train=str(bad_rows)), workers=1)
    counts = manifest.counts
    assert (counts.rows, counts.kept) == (12, 8) and sum(counts.dropped.values()) == 4
    assert (
        counts.dropped["empty answer"] == counts.dropped["no messages"] == counts.dropped["wrong type"] == 1
    )
    rejects = [
        json.loads(line)
        for file in sorted((tmp_path / "prepared").glob("*.rejects.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert len(rejects) == 4
    assert [reject["where"].rpartition(":")[2] for reject in rejects] == ["2", "3", "8", "12"]
    assert rejects[0]["row"] == {"prompt": "a", "completion": ""}
    # What could not be read is told once.
    assert rejects[2]["reason"] == "invalid UTF-8" and rejects[2]["row"] is None
    assert rejects[3]["row"] == {"prompt": 3, "completion": "x"}


def test_a_mixture_takes_its_shares(tiny_checkpoints, tmp_path):
    source = {"path": str(tiny_checkpoints.rows)}
    data = {"train": None, "sources": [source, {**source, "weight": 0.5}]}
    manifest = prepare(recipe_of(tiny_checkpoints, tmp_path, **data), workers=1)
    assert manifest.counts.rows == 12
    assert [source["weight"] for source in manifest.plan.sources] == [1.0, 0.5]
    other = prepare(recipe_of(tiny_checkpoints, tmp_path, **data, mix_seed=1, prepared=str(tmp_path / "q")))
    assert other.fingerprint != manifest.fingerprint


def test_other_data_is_not_mixed_in(tiny_checkpoints, tmp_path):
    recipe = recipe_of(tiny_checkpoints, tmp_path)
    first = prepare(recipe, workers=1)
    other = recipe_of(tiny_checkpoints, tmp_path, max_length=32)
    message = r"prepared with other options\.max_length, options\.teacher_max_length\. Pass --overwrite"
    with pytest.raises(ValueError, match=message):
        prepare(other, workers=1)
    assert Manifest.read(tmp_path / "prepared") == first
    assert prepare(other, workers=1, overwrite=True) != first
    assert not list((tmp_path / "prepared").glob("*.new"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds files that are no prepared data"):
        prepare(recipe_of(tiny_checkpoints, tmp_path, prepared=str(tmp_path / "mine")), overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_training_refuses_shards_of_another_making(tiny_checkpoints, tmp_path):
    prepare(recipe_of(tiny_checkpoints, tmp_path), workers=1)
    for change, message in (
        ({"max_length": 32}, r"made with max_length 48 \(here 32\)"),
        ({"end_fill": "none"}, r"made with end_fill 'learnt' \(here 'none'\)"),
        (
            {"chunk_merging": "words", "chunk_max_tokens": 8},
            r"made with chunk_merging 'none' \(here 'words'\), chunk_max_tokens None \(here 8\)",
        ),
        (
            {"chunk_merging": "length", "chunk_max_bytes": 9},
            r"made with chunk_merging 'none' \(here 'length'\), chunk_max_bytes None \(here 9\)",
        ),
    ):
        recipe = recipe_of(tiny_checkpoints, tmp_path, **change)
        with pytest.raises(ValueError, match=message):
            training_data(recipe, load_tokenizers(recipe))
    # Shards of both sides serve a method within one tokenizer, and not the other way round.
    shared = recipe_of(tiny_checkpoints, tmp_path, "tide_shared")
    example = training_data(shared, load_tokenizers(shared)).examples[0]
    assert example.teacher is example.student
    prepare(recipe_of(tiny_checkpoints, tmp_path, "none", prepared=str(tmp_path / "one")), workers=1)
    cross = recipe_of(tiny_checkpoints, tmp_path, prepared=str(tmp_path / "one"))
    with pytest.raises(ValueError, match=r"tide_cross needs chunks of two tokenizers"):
        training_data(cross, load_tokenizers(cross))
    # Another tokenizer's ids mean something else.
    values = recipe_of(tiny_checkpoints, tmp_path).to_dict()
    values["student"]["tokenizer"] = str(tiny_checkpoints.other_teacher)
    recipe = Recipe.from_dict(values)
    with pytest.raises(ValueError, match=r"made with another student tokenizer"):
        training_data(recipe, load_tokenizers(recipe))


@pytest.mark.parametrize("limit", ["chunk_max_tokens", "chunk_max_bytes"])
def test_shards_with_another_limit_on_chunks_are_refused(tiny_checkpoints, tmp_path, limit):
    words = recipe_of(tiny_checkpoints, tmp_path, chunk_merging="words", prepared=None)
    made = recipe_of(tiny_checkpoints, tmp_path, chunk_merging="words", **{limit: 4})
    num_chunks = prepare(made, workers=1).counts.chunks
    tokenizers = load_tokenizers(made)
    assert num_chunks > training_data(words, tokenizers).counts.chunks
    assert training_data(made, tokenizers).counts.chunks == num_chunks
    other = recipe_of(tiny_checkpoints, tmp_path, chunk_merging="words", **{limit: 5})
    with pytest.raises(ValueError, match=rf"made with {limit} 4 \(here 5\)"):
        training_data(other, load_tokenizers(other))
    with pytest.raises(ValueError, match=rf"prepared with other options\.{limit}\."):
        prepare(other, workers=1)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_tokenizers_load_before_sources_are_read(tiny_checkpoints, tmp_path, monkeypatch, side):
    opened = []
    module = import_module("tide.preparation.prepare")  # the package has a function of this name
    monkeypatch.setattr(module, "open_source", lambda *args, **kwargs: opened.append(args))
    values = recipe_of(tiny_checkpoints, tmp_path).to_dict()
    values[side]["tokenizer"] = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"load_tokenizer: no folder '.*nowhere'"):
        prepare(Recipe.from_dict(values), workers=1)
    assert not opened


def test_tokenizers_are_loaded_once(tiny_checkpoints, tmp_path, monkeypatch):
    recipe, loaded = recipe_of(tiny_checkpoints, tmp_path), []
    whole = load_tokenizers
    module = import_module("tide.preparation.prepare")
    monkeypatch.setattr(module, "load_tokenizers", lambda given: (loaded.append(1), whole(given))[1])
    prepare(recipe, workers=1)
    assert len(loaded) == 1
    in_memory = recipe_of(tiny_checkpoints, tmp_path, prepared=None)
    training_data(in_memory, whole(in_memory))
    assert len(loaded) == 1


def test_without_a_place_or_a_row_there_is_nothing(tiny_checkpoints, tmp_path):
    with pytest.raises(ValueError, match=r"data\.prepared says where the shards go, and is null"):
        prepare(recipe_of(tiny_checkpoints, tmp_path, prepared=None))
    empty = tmp_path / "empty.jsonl"
    empty.write_text('{"text": ""}\n')
    with pytest.raises(ValueError, match=r"none of 1 rows makes an example \(empty answer 1\)"):
        prepare(recipe_of(tiny_checkpoints, tmp_path, train=str(empty)), workers=1)


def test_an_interruption_does_not_wait_for_the_parts_that_no_worker_has(tiny_checkpoints, tmp_path):
    sources = [{"path": str(tiny_checkpoints.rows), "weight": 100}]
    recipe = recipe_of(tiny_checkpoints, tmp_path, train=None, sources=sources)
    preparation = Preparation.of(recipe, shard_rows=1)
    directory = tmp_path / "prepared"
    directory.mkdir()
    numbers = list(range(len(preparation.mixture)))
    made = _made(preparation, numbers, directory, 2)
    next(made)
    with pytest.raises(KeyboardInterrupt):
        made.throw(KeyboardInterrupt)
    assert len(numbers) == 800 and 1 <= len(list(directory.glob("part-*.json"))) < 400

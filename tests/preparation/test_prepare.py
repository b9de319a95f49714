"""Shards are a function of the recipe and its data: not of workers, of an interruption, or of the run."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING

import pytest
import torch

from tests.preparation.prepared import files, prepare, recipe_of
from tests.tiny import ROWS
from tide.config import Recipe
from tide.data import ShardedExamples
from tide.preparation import Manifest, load_tokenizers, training_data
from tide.preparation.manifest import SourceCounts

if TYPE_CHECKING:
    from pathlib import Path

PREPARE = import_module("tide.preparation.prepare")  # the package has a function of this name


def equal(one, other) -> bool:
    pairs = [(one.student, other.student), (one.teacher, other.teacher)]
    return one.num_chunks == other.num_chunks and all(
        (a is None) == (b is None)
        and (
            a is None
            or all(
                torch.equal(getattr(a, name), getattr(b, name))
                for name in ("token_ids", "loss_mask", "chunks")
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
def test_shards_hold_the_examples_of_an_in_memory_preparation(tiny_checkpoints, tmp_path, method):
    recipe = recipe_of(tiny_checkpoints, tmp_path, method)
    manifest = prepare(recipe, workers=1)
    assert [shard.examples for shard in manifest.shards] == [4, 4]
    tokenizers = load_tokenizers(recipe)
    on_disk = training_data(recipe, tokenizers)
    assert isinstance(on_disk.examples, ShardedExamples)
    in_memory = training_data(recipe_of(tiny_checkpoints, tmp_path, method, prepared=None), tokenizers)
    assert on_disk.counts == in_memory.counts and on_disk.counts.kept == len(ROWS)
    assert all(equal(*pair) for pair in zip(on_disk.examples, in_memory.examples, strict=True))


def test_counts_match_the_examples(tiny_checkpoints, tmp_path):
    # The teacher's tokens are cut before most of the answers begin.
    recipe = recipe_of(tiny_checkpoints, tmp_path, max_length=24, teacher_max_length=8)
    counts = prepare(recipe, workers=1).counts
    tokenizers = load_tokenizers(recipe)
    examples = list(training_data(recipe, tokenizers).examples)
    texts = [
        sum(len(tokenizers.student(piece)["input_ids"]) for piece in (row.prompt, row.completion) if piece)
        for row in ROWS
    ]
    assert 0 < counts.cut == sum(length + 1 > 24 for length in texts) < counts.kept == len(ROWS)
    assert 0 < counts.without_chunks == sum(example.num_chunks == 0 for example in examples) < counts.kept
    assert counts.chunks == sum(example.num_chunks for example in examples)
    highest = [int(example.student.token_ids.max()) for example in examples]
    assert counts.highest_id == max(highest) > min(highest)
    shared = recipe_of(tiny_checkpoints, tmp_path, "tide_shared", prepared=str(tmp_path / "one"))
    assert prepare(shared, workers=1).counts.without_chunks == 0


@pytest.mark.slow
def test_bytes_are_the_same_again_and_with_more_workers(tiny_checkpoints, tmp_path, bad_rows):
    data = {"train": None, "sources": [{"path": str(bad_rows)}, {"path": str(tiny_checkpoints.rows)}]}
    written = []
    for number, workers in enumerate([1, 1, 2]):
        recipe = recipe_of(tiny_checkpoints, tmp_path, **data, prepared=str(tmp_path / f"p{number}"))
        prepare(recipe, workers=workers)
        written.append(files(tmp_path / f"p{number}"))
    assert written[0] == written[1] == written[2]
    assert {"manifest.json", "plan.json", "part-00000.arrow", "part-00004.arrow"} <= written[0].keys()


def test_an_interrupted_preparation_resumes(tiny_checkpoints, tmp_path, bad_rows, monkeypatch):
    sources = [{"path": str(bad_rows)}, {"path": str(tiny_checkpoints.rows), "weight": 0.25}]
    recipe = recipe_of(tiny_checkpoints, tmp_path, train=None, sources=sources)
    prepare(recipe, workers=1)
    expected = files(tmp_path / "prepared")
    for file in (tmp_path / "prepared").iterdir():
        file.unlink()

    whole, made = PREPARE.write_part, []

    def until_the_second(preparation, number, directory):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(number)
        return whole(preparation, number, directory)

    monkeypatch.setattr(PREPARE, "write_part", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, workers=1)
    with pytest.raises(ValueError, match=r"manifest\.json' is not finished"):
        training_data(recipe, load_tokenizers(recipe))
    (tmp_path / "prepared" / "part-00001.arrow").write_bytes(b"torn")

    again = []
    monkeypatch.setattr(
        PREPARE, "write_part", lambda given, n, where: (again.append(n), whole(given, n, where))[1]
    )
    said = []
    prepare(recipe, workers=1, log=said.append)
    assert made == [0] and again == [1, 2, 3]
    assert files(tmp_path / "prepared") == expected
    prepare(recipe, workers=1, log=said.append)
    assert again == [1, 2, 3]
    assert said == [
        f"{tmp_path / 'prepared'} holds 1 of 4 shards already; resuming",
        f"{tmp_path / 'prepared'} was already prepared; nothing is made again",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("part-00000.json", "{}"),
        ("part-00000.json", '{"counts": {}, "shard": 3}'),
        ("part-00000.json", '{"cou'),
        ("part-00001.json", "of another part"),
        ("part-00001.json", "of another name"),
        ("part-00001.arrow", "torn"),
        ("manifest.json", "{}"),
        ("manifest.json", '{"plan'),
        ("manifest.json", "[" * 100_000),
        ("manifest.json", "of one more row"),
        ("part-00000.json", "of one more row"),
    ],
)
def test_torn_files_are_made_again(tiny_checkpoints, tmp_path, name, text):
    recipe = recipe_of(tiny_checkpoints, tmp_path)
    manifest = prepare(recipe, workers=1)
    expected = files(tmp_path / "prepared")
    if text == "of another part":
        text = expected["part-00000.json"].decode()
    if text == "of one more row":
        values = json.loads(expected[name])
        values["counts"]["kept"] += 1
        text = json.dumps(values)
    if text == "of another name":
        text = expected[name].decode().replace("part-00001.arrow", "part-00000.arrow")
    (tmp_path / "prepared" / name).write_text(text)
    assert prepare(recipe, workers=1) == manifest
    assert files(tmp_path / "prepared") == expected


def test_no_manifest_stands_beside_shards_that_are_being_made(tiny_checkpoints, tmp_path, monkeypatch):
    recipe = recipe_of(tiny_checkpoints, tmp_path)
    prepare(recipe, workers=1)
    (tmp_path / "prepared" / "part-00001.arrow").write_bytes(b"torn")

    def interrupted(preparation, number, directory):
        raise KeyboardInterrupt

    monkeypatch.setattr(PREPARE, "write_part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(recipe, workers=1)
    assert not (tmp_path / "prepared" / "manifest.json").exists()


def test_parts_of_two_versions_are_not_mixed(tiny_checkpoints, tmp_path, monkeypatch):
    recipe = recipe_of(tiny_checkpoints, tmp_path)
    directory = tmp_path / "prepared"
    first = prepare(recipe, workers=1)
    assert first.plan.versions.keys() >= {"tide", "tokenizers", "transformers"}
    there = first.plan.versions

    def tokenizers_are_of(number):
        newer = {**there, "tokenizers": number}
        monkeypatch.setattr("tide.preparation.manifest.version", newer.__getitem__)

    tokenizers_are_of("9.9")
    before = files(directory)
    # Finished data is as good as it was: for a second call, and for training.
    assert prepare(recipe, workers=1) == first and files(directory) == before
    assert len(training_data(recipe, load_tokenizers(recipe)).examples) == len(ROWS)
    (directory / "manifest.json").unlink()
    (directory / "part-00001.arrow").unlink()
    message = rf"made by tokenizers {there['tokenizers']} \(here 9\.9\); parts of two versions are not mixed"
    with pytest.raises(ValueError, match=message + r"\. Resume with those versions, pass --overwrite"):
        prepare(recipe, workers=1)
    again = prepare(recipe, workers=1, overwrite=True)
    assert again.plan.versions["tokenizers"] == "9.9" and again.shards == first.shards
    # Where no part is made yet there is nothing to mix.
    for file in directory.glob("*.arrow"):
        file.unlink()
    tokenizers_are_of("10")
    assert prepare(recipe, workers=1).plan.versions["tokenizers"] == "10"


def test_data_of_format_1_is_refused_by_preparation_and_training(tiny_checkpoints, tmp_path):
    recipe, directory = recipe_of(tiny_checkpoints, tmp_path), tmp_path / "prepared"
    first = prepare(recipe, workers=1)
    for name in ("plan.json", "manifest.json"):
        text = (directory / name).read_text().replace('"format": 2', '"format": 1')
        (directory / name).write_text(text.replace('"loss_tokens"', '"learnt_tokens"'))
    before = files(directory)
    with pytest.raises(ValueError, match=r"manifest\.json' has format 1, expected 2"):
        training_data(recipe, load_tokenizers(recipe))
    with pytest.raises(ValueError, match=r"plan\.json' has format 1, expected 2"):
        prepare(recipe, workers=1)
    assert files(directory) == before
    assert prepare(recipe, workers=1, overwrite=True) == first


def test_rejected_rows_are_counted_and_written(tiny_checkpoints, tmp_path, bad_rows):
    manifest = prepare(recipe_of(tiny_checkpoints, tmp_path, train=str(bad_rows)), workers=1)
    counts = manifest.counts
    assert (counts.rows, counts.kept) == (12, 8) and sum(counts.rejected.values()) == 4
    assert (
        counts.rejected["empty answer"]
        == counts.rejected["no messages"]
        == counts.rejected["wrong type"]
        == 1
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


def test_rows_are_counted_by_source(tiny_checkpoints, tmp_path, bad_rows):
    sources = [{"path": str(bad_rows)}, {"path": str(tiny_checkpoints.rows), "weight": 0.5}]
    recipe = recipe_of(tiny_checkpoints, tmp_path, train=None, sources=sources)
    manifest = prepare(recipe, workers=1)
    assert len(manifest.shards) == 4
    assert manifest.sources == [
        SourceCounts(rows=12, kept=8, rejected=4),
        SourceCounts(rows=4, kept=4, rejected=0),
    ]
    assert Manifest.read(tmp_path / "prepared") == manifest


def test_a_source_without_a_row_in_the_mixture_is_an_error(tiny_checkpoints, tmp_path):
    rows = str(tiny_checkpoints.rows)
    sources = [{"path": rows}, {"path": rows, "weight": 0.05}]
    for prepared in (str(tmp_path / "prepared"), None):
        for num_rows, total in ((None, 8), (3, 3)):
            recipe = recipe_of(
                tiny_checkpoints, tmp_path, train=None, sources=sources, num_rows=num_rows, prepared=prepared
            )
            message = (
                rf"source 1 \('{rows}', 8 rows at weight 0\.05\) comes to none of the mixture's {total} rows"
                r"\. Raise data\.num_rows or its weight"
            )
            with pytest.raises(ValueError, match=message):
                prepare(recipe) if prepared else training_data(recipe, load_tokenizers(recipe))
    assert not (tmp_path / "prepared").exists()


def test_a_mixture_takes_weighted_shares(tiny_checkpoints, tmp_path):
    source = {"path": str(tiny_checkpoints.rows)}
    data = {"train": None, "sources": [source, {**source, "weight": 0.5}]}
    manifest = prepare(recipe_of(tiny_checkpoints, tmp_path, **data), workers=1)
    assert manifest.counts.rows == 12
    assert [source["weight"] for source in manifest.plan.sources] == [1.0, 0.5]
    other = recipe_of(tiny_checkpoints, tmp_path, **data, mix_seed=1, prepared=str(tmp_path / "q"))
    assert prepare(other, workers=1).fingerprint != manifest.fingerprint


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
    # A plan that cannot be read is some plan, too.
    (tmp_path / "prepared" / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match=r"plan\.json': .*sides: .*Pass --overwrite"):
        prepare(recipe, workers=1)
    assert prepare(recipe, workers=1, overwrite=True) == first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="holds files that are no prepared data"):
        prepare(recipe_of(tiny_checkpoints, tmp_path, prepared=str(tmp_path / "mine")), overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_every_option_that_decides_the_rows_is_in_the_plan(tiny_checkpoints, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(tiny_checkpoints.rows.read_bytes())
    sources = [{"path": str(rows)}, {"path": str(tiny_checkpoints.rows)}]
    data = {"train": None, "sources": sources, "num_rows": 6}
    prepare(recipe_of(tiny_checkpoints, tmp_path, **data), workers=1)
    for change, key in (
        ({"mix_seed": 1}, r"options\.mix_seed"),
        ({"num_rows": 8}, r"options\.num_rows"),
        ({"num_rows": None}, r"options\.num_rows"),
        ({"chunk_merging": "words"}, r"options\.chunk_merging"),
        ({"sources": [{**sources[0], "weight": 2}, sources[1]]}, r"sources\.0\.weight"),
    ):
        with pytest.raises(ValueError, match=rf"prepared with other {key}\. Pass --overwrite"):
            prepare(recipe_of(tiny_checkpoints, tmp_path, **data | change), workers=1)
    rows.write_text(rows.read_text().replace("first + second", "first - second"))
    with pytest.raises(ValueError, match=r"prepared with other sources\.0\.sha256\. Pass"):
        prepare(recipe_of(tiny_checkpoints, tmp_path, **data), workers=1)


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
    module = import_module("tide.preparation.plan")
    monkeypatch.setattr(module, "open_source", lambda *args, **kwargs: opened.append(args))
    values = recipe_of(tiny_checkpoints, tmp_path).to_dict()
    values[side]["tokenizer"] = str(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"load_tokenizer: no folder '.*nowhere'"):
        prepare(Recipe.from_dict(values), workers=1)
    assert not opened


def test_tokenizers_are_loaded_once(tiny_checkpoints, tmp_path, monkeypatch):
    recipe, loaded = recipe_of(tiny_checkpoints, tmp_path), []
    whole = load_tokenizers
    module = import_module("tide.preparation.plan")
    monkeypatch.setattr(module, "load_tokenizers", lambda given: (loaded.append(1), whole(given))[1])
    prepare(recipe, workers=1)
    assert len(loaded) == 1
    in_memory = recipe_of(tiny_checkpoints, tmp_path, prepared=None)
    training_data(in_memory, whole(in_memory))
    assert len(loaded) == 1


def test_a_recipe_without_prepared_or_sources_is_an_error(tiny_checkpoints, tmp_path):
    with pytest.raises(ValueError, match=r"neither data\.train nor data\.sources, so there are no rows"):
        prepare(recipe_of(tiny_checkpoints, tmp_path, train=None))
    with pytest.raises(ValueError, match=r"data\.prepared says where the shards go, and is null"):
        prepare(recipe_of(tiny_checkpoints, tmp_path, prepared=None))

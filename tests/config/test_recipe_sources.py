"""A mixture: a list of sections, read as strictly as any other."""

from __future__ import annotations

import pytest

from tide.config import Recipe, SourceConfig

ONE = "  train: data/train.jsonl\n"
TWO = """\
  sources:
    - path: data/a.jsonl
    - path: org/chat
      subset: python
      split: train_sft
      weight: 2
"""


def test_a_mixture_is_read_and_written(load, minimal):
    recipe = load(minimal.replace(ONE, TWO))
    assert recipe.data.sources == [
        SourceConfig("data/a.jsonl"),
        SourceConfig("org/chat", "python", "train_sft", 2.0),
    ]
    assert type(recipe.data.sources[1].weight) is float
    assert recipe.data.mixture == recipe.data.sources
    assert load(recipe.to_yaml()) == recipe == Recipe.from_dict(recipe.to_dict())


def test_one_source_is_a_mixture_of_one(load, minimal):
    assert load(minimal).data.mixture == [SourceConfig("data/train.jsonl")]


def test_prepared_data_needs_no_sources(load, minimal):
    recipe = load(minimal.replace(ONE, "  prepared: runs/data\n"))
    assert (recipe.data.mixture, recipe.data.prepared) == ([], "runs/data")
    assert load(recipe.to_yaml()) == recipe


def test_sources_can_be_overridden_as_a_whole(load, minimal):
    recipe = load(minimal, ["data.train=null", "data.sources=[{path: b.jsonl, weight: 0.5}]"])
    assert recipe.data.mixture == [SourceConfig("b.jsonl", weight=0.5)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            ONE,
            "  max_length: 64\n",
            "r.yaml:6: data: nothing to train on; give data.train, or data.sources as a list of path: lines, "
            "or data.prepared alone to read shards that are there",
        ),
        (
            ONE,
            ONE + TWO,
            "r.yaml:6: data: both train ('data/train.jsonl') and 2 sources; add train to the sources, or "
            "drop one",
        ),
        (
            ONE,
            TWO.replace("org/chat", "data/../data/held.jsonl") + "  held_out: data/held.jsonl\n",
            "r.yaml:13: data.held_out: the same file as a source ('data/../data/held.jsonl'), so it would "
            "measure memory; give other text, or null",
        ),
        (
            ONE,
            ONE + "  prepared: runs/one/\n",
            "r.yaml:8: data.prepared: 'runs/one/' is training.output_dir; give the prepared data a directory "
            "of its own",
        ),
        (
            ONE,
            ONE + "  chunk_merging: words\n",
            "r.yaml:8: data.chunk_merging: 'words' merges the chunks of two tokenizers, which method "
            "tide_shared has not; leave chunk_merging out, or set method: calm or tide_cross",
        ),
        (
            ONE,
            TWO.replace("weight: 2", "weight: 0"),
            "r.yaml:12: data.sources.1.weight: must be above 0, got 0",
        ),
        (
            ONE,
            TWO.replace("subset:", "subst:"),
            "r.yaml:10: data.sources.1.subst: unknown key; nearest known key: data.sources.1.subset",
        ),
        (
            ONE,
            "  sources:\n    - weight: 2\n",
            "r.yaml:7: data.sources.0.path: required key is missing; add path (text) under data.sources.0",
        ),
        (
            ONE,
            "  sources: a.jsonl\n",
            "r.yaml:7: data.sources: expected a list, each item a section of keys (path), got 'a.jsonl'; "
            "begin each item with a dash",
        ),
        (
            ONE,
            "  sources:\n    - a.jsonl\n",
            "r.yaml:7: data.sources.0: expected a section of keys (path), got 'a.jsonl'; write them under "
            "it, one a line",
        ),
    ],
)
def test_what_is_wrong_with_a_mixture_is_named(errors, minimal, old, new, expected):
    assert errors(minimal.replace(old, new)) == [expected]


def test_one_item_of_a_list_can_be_overridden(load, errors, minimal):
    mixture = minimal.replace(ONE, TWO)
    recipe = load(mixture, ["data.sources.1.path=b", "data.sources.1.weight=3", "data.sources.0={path: c}"])
    assert recipe.data.sources == [SourceConfig("c"), SourceConfig("b", "python", "train_sft", 3.0)]
    later = load(mixture, ["data.sources=[{path: d}, {path: e}]", "data.sources.1.split=x"])
    assert later.data.sources == [SourceConfig("d"), SourceConfig("e", split="x")]
    assert errors(mixture, ["data.sources.1.weight=0", "data.sources.2.path=f", "data.sources.0.pth=g"]) == [
        "override 'data.sources.2.path=f': data.sources.2.path: no item 2 in data.sources, which has 2, "
        "numbered from 0; give the list as a whole: data.sources=[{...}, {...}]",
        "override 'data.sources.0.pth=g': data.sources.0.pth: unknown key; nearest known key: "
        "data.sources.0.path",
        "override 'data.sources.1.weight=0': data.sources.1.weight: must be above 0, got 0",
    ]


@pytest.mark.parametrize("sources", ["  sources: a.jsonl\n", "  sources:\n    - a.jsonl\n"])
def test_an_item_of_what_is_no_list_of_sections_leaves_the_file_s_error(errors, minimal, sources):
    (line,) = errors(minimal.replace(ONE, sources), ["data.sources.0.weight=2"])
    assert line.startswith("r.yaml:7: data.sources")


def test_a_list_in_place_of_a_section_leaves_the_file_s_error(errors, minimal):
    (line,) = errors(minimal.replace("  path: models/teacher", "  - models/teacher"), ["teacher.path=t"])
    assert line.startswith("r.yaml:4: teacher: expected a section of keys")


@pytest.mark.parametrize(
    ("override", "number", "example"),
    [
        ("data.sources.*.path=a", "*", "path"),
        ("data.sources.-1.weight=3", "-1", "weight"),
        ("data.sources.last.wieght=3", "last", "path"),
        ("data.sources.01={path: a}", "01", "path"),
        ("data.sources.weight=3", "weight", "weight"),
    ],
)
def test_what_is_no_number_of_an_item_is_told(errors, minimal, override, number, example):
    assert errors(minimal.replace(ONE, TWO), [override]) == [
        f"override {override!r}: {override.partition('=')[0]}: unknown key; data.sources is a list, and "
        f"{number!r} no number of an item; items are numbered from 0: data.sources.0.{example}"
    ]


def test_the_nearest_key_has_the_number_that_was_given(errors, minimal):
    mixture = minimal.replace(ONE, TWO)
    lines = errors(mixture, ["data.sources.0.wieght=3", "data.sources.7.wieght=3", "data.wieght=3"])
    assert [line.rpartition(" ")[2] for line in lines] == [
        "data.sources.0.weight",
        "data.sources.7.weight",
        "data.sources.*.weight",
    ]

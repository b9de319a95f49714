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
        SourceConfig(path="data/a.jsonl"),
        SourceConfig(path="org/chat", subset="python", split="train_sft", weight=2.0),
    ]
    assert type(recipe.data.sources[1].weight) is float
    assert recipe.data.mixture == recipe.data.sources
    assert load(recipe.to_yaml()) == recipe == Recipe.from_dict(recipe.to_dict())


def test_one_source_is_a_mixture_of_one(load, minimal):
    assert load(minimal).data.mixture == [SourceConfig(path="data/train.jsonl")]


def test_prepared_data_needs_no_sources(load, minimal):
    recipe = load(minimal.replace(ONE, "  prepared: runs/data\n"))
    assert (recipe.data.mixture, recipe.data.prepared) == ([], "runs/data")
    assert load(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("new", "line", "key", "words"),
    [
        (TWO.replace("weight: 2", "weight: 0"), 12, "data.sources.1.weight", "above 0"),
        (
            TWO.replace("subset:", "subst:"),
            10,
            "data.sources.1.subst",
            "nearest known key: data.sources.1.subset",
        ),
        ("  sources:\n    - weight: 2\n", 7, "data.sources.0.path", "add path (text) under data.sources.0"),
        ("  sources: a.jsonl\n", 7, "data.sources", "begin each item with a dash"),
        (
            "  sources:\n    - a.jsonl\n",
            7,
            "data.sources.0",
            "expected a section of keys (path), got 'a.jsonl'",
        ),
    ],
)
def test_a_wrong_mixture_is_named(problem, minimal, new, line, key, words):
    found = problem(minimal.replace(ONE, new))
    assert (found.place.line, found.key) == (line, key) and words in found.message


def test_overrides_set_all_items_or_one(load, minimal):
    mixture = minimal.replace(ONE, TWO)
    every = load(minimal, ["data.train=null", "data.sources=[{path: b.jsonl, weight: 0.5}]"])
    assert every.data.mixture == [SourceConfig(path="b.jsonl", weight=0.5)]
    one = load(mixture, ["data.sources.1.path=b", "data.sources.1.weight=3", "data.sources.0={path: c}"])
    chat = SourceConfig(path="b", subset="python", split="train_sft", weight=3.0)
    assert one.data.sources == [SourceConfig(path="c"), chat]
    later = load(mixture, ["data.sources=[{path: d}, {path: e}]", "data.sources.1.split=x"])
    assert later.data.sources == [SourceConfig(path="d"), SourceConfig(path="e", split="x")]


def test_wrong_overrides_of_items_are_named(problems, minimal):
    wrong = ["data.sources.1.weight=0", "data.sources.2.path=f", "data.sources.0.pth=g"]
    found = problems(minimal.replace(ONE, TWO), wrong)
    assert {str(one.place): one.key for one in found} == {
        f"override {text!r}": text.partition("=")[0] for text in wrong
    }
    messages = {one.key: one.message for one in found}
    assert "no item 2 in data.sources, which has 2" in messages["data.sources.2.path"]
    assert messages["data.sources.0.pth"].endswith("data.sources.0.path")
    assert "above 0" in messages["data.sources.1.weight"]


@pytest.mark.parametrize("sources", ["  sources: a.jsonl\n", "  sources:\n    - a.jsonl\n"])
def test_an_override_into_a_wrong_list_leaves_the_error_of_the_file(problem, minimal, sources):
    found = problem(minimal.replace(ONE, sources), ["data.sources.0.weight=2"])
    assert found.place.line == 7 and found.key.startswith("data.sources")


def test_a_list_in_place_of_a_section_leaves_the_error_of_the_file(problem, minimal):
    found = problem(minimal.replace("  path: models/teacher", "  - models/teacher"), ["teacher.path=t"])
    assert (found.place.line, found.key) == (4, "teacher")


@pytest.mark.parametrize(
    ("override", "item"),
    [
        ("data.sources.*.path=a", "*"),
        ("data.sources.-1.weight=3", "-1"),
        ("data.sources.last.wieght=3", "last"),
        ("data.sources.01={path: a}", "01"),
        ("data.sources.weight=3", "weight"),
    ],
)
def test_an_item_is_named_by_its_number(problem, minimal, override, item):
    found = problem(minimal.replace(ONE, TWO), [override])
    assert found.key == override.partition("=")[0]
    assert f"no item {item} in data.sources, which has 2, numbered from 0" in found.message


def test_the_nearest_key_keeps_the_number_that_was_given(problems, minimal):
    overrides = ["data.sources.1.wieght=3", "data.wieght=3"]
    found = problems(minimal.replace(ONE, TWO), overrides)
    assert [one.message.rpartition(" ")[2] for one in found] == [
        "data.sources.1.weight",
        "data.sources.*.weight",
    ]

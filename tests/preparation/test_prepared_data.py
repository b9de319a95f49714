"""Training takes the shards that fit its recipe, as they were prepared, and no others."""

from __future__ import annotations

import pytest

from tests.preparation.prepared import prepare, recipe_of
from tests.tiny import ROWS, write_rows
from tide.config import Recipe
from tide.preparation import load_tokenizers, training_data


def examples_of(recipe):
    return training_data(recipe, load_tokenizers(recipe)).examples


def test_training_refuses_shards_of_other_options(tiny_checkpoints, tmp_path):
    prepare(recipe_of(tiny_checkpoints, tmp_path), workers=1)
    for change, message in (
        ({"max_length": 32}, r"made with max_length 48 \(here 32\)"),
        ({"end_fill": "none"}, r"made with end_fill 'learnt' \(here 'none'\)"),
        ({"chunk_merging": "words"}, r"made with chunk_merging 'none' \(here 'words'\)"),
        ({"teacher_max_length": 32}, r"made with teacher_max_length 48 \(here 32\)"),
    ):
        recipe = recipe_of(tiny_checkpoints, tmp_path, **change)
        with pytest.raises(ValueError, match=message):
            training_data(recipe, load_tokenizers(recipe))
    values = recipe_of(tiny_checkpoints, tmp_path).to_dict()
    values["masking"]["block_size"] = 16
    with pytest.raises(ValueError, match=r"made with block_size 8 \(here 16\)"):
        examples_of(Recipe.from_dict(values))
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


def test_training_refuses_shards_of_other_sources(tiny_checkpoints, tmp_path):
    other = str(write_rows(tmp_path / "other.jsonl", ROWS[:5]))
    sources = [{"path": str(tiny_checkpoints.rows)}, {"path": other}]
    data = {"train": None, "sources": sources, "num_rows": 8}
    prepare(recipe_of(tiny_checkpoints, tmp_path, **data), workers=1)
    assert len(examples_of(recipe_of(tiny_checkpoints, tmp_path, **data))) == 8
    for change, message in (
        (
            {"sources": sources[::-1]},
            rf"sources\.0\.path '.*rows\.jsonl' \(here '{other}'\), sources\.1\.path",
        ),
        ({"sources": sources[:1]}, rf"sources\.1\.path '{other}' \(here None\), sources\.1\.split"),
        ({"sources": [*sources, {"path": "c"}]}, r"sources\.2\.path None \(here 'c'\), sources\.2\.split"),
        (
            {"sources": [sources[0], {"path": other, "subset": "a"}]},
            r"sources\.1\.subset None \(here 'a'\)\.",
        ),
        (
            {"sources": [sources[0], {"path": other, "split": "test"}]},
            r"sources\.1\.split 'train' \(here 'test'\)",
        ),
        ({"sources": [{**sources[0], "weight": 2}, sources[1]]}, r"sources\.0\.weight 1\.0 \(here 2\.0\)\."),
        (
            {"sources": [sources[0], {"path": other, "answer_contains": "def"}]},
            r"sources\.1\.answer_contains None \(here 'def'\)\.",
        ),
        ({"mix_seed": 3}, r"mix_seed 0 \(here 3\)\."),
        ({"num_rows": None}, r"num_rows 8 \(here None\)\."),
    ):
        with pytest.raises(
            ValueError, match=f"made with {message}.*name neither data.train nor data.sources"
        ):
            examples_of(recipe_of(tiny_checkpoints, tmp_path, **data | change))
    with pytest.raises(
        ValueError, match=r"made with max_length 48 \(here 32\), mix_seed 0 \(here 3\), "
    ) as raised:
        examples_of(recipe_of(tiny_checkpoints, tmp_path, **data, mix_seed=3, max_length=32))
    assert str(raised.value).endswith("or use the recipe that it was made with.")


def test_a_recipe_without_sources_takes_the_shards_of_any(tiny_checkpoints, tmp_path):
    alone = recipe_of(tiny_checkpoints, tmp_path, train=None, mix_seed=4)
    with pytest.raises(
        ValueError, match=r"holds none that is finished, and the recipe names neither data\.train"
    ):
        examples_of(alone)
    prepare(recipe_of(tiny_checkpoints, tmp_path), workers=1)
    (tmp_path / "prepared").rename(tmp_path / "moved")
    moved = recipe_of(tiny_checkpoints, tmp_path, train=None, mix_seed=4, prepared=str(tmp_path / "moved"))
    assert len(examples_of(moved)) == len(ROWS)
    longer = recipe_of(
        tiny_checkpoints, tmp_path, train=None, max_length=64, prepared=str(tmp_path / "moved")
    )
    with pytest.raises(ValueError, match=r"made with max_length 48 \(here 64\)"):
        examples_of(longer)


def test_template_arguments_are_compared_by_type_and_value(tiny_checkpoints, tmp_path):
    values = recipe_of(tiny_checkpoints, tmp_path).to_dict()
    values["student"]["template_arguments"] = {"enable_thinking": 1}
    recipe = Recipe.from_dict(values)
    prepare(recipe, workers=1)
    assert len(examples_of(recipe)) == len(ROWS)
    values["student"]["template_arguments"] = {"enable_thinking": True}
    recipe = Recipe.from_dict(values)
    with pytest.raises(
        ValueError,
        match=r"student_template_arguments.enable_thinking 1 \(here True\)",
    ):
        examples_of(recipe)
    with pytest.raises(
        ValueError, match=r"prepared with other options\.student_template_arguments\.enable_thinking"
    ):
        prepare(recipe, workers=1)


def test_shards_that_were_changed_since_are_refused_until_prepared_again(tiny_checkpoints, tmp_path):
    recipe = recipe_of(tiny_checkpoints, tmp_path)
    prepare(recipe, workers=1)
    shard = tmp_path / "prepared" / "part-00001.arrow"
    shard.write_bytes((tmp_path / "prepared" / "part-00000.arrow").read_bytes())
    with pytest.raises(
        ValueError, match=r"shard '.*part-00001\.arrow' is not the one .* Run `tide prepare` again"
    ):
        examples_of(recipe)
    prepare(recipe, workers=1)
    assert len(examples_of(recipe)) == len(ROWS)

"""`key=value` texts over a file: the same checks, and errors that quote the override."""

from __future__ import annotations

import pytest

from tide.config import ModelConfig, load_recipe


def test_overrides_set_values_of_every_kind(load, minimal):
    recipe = load(
        minimal,
        [
            "training.max_steps=10",
            "training.learning_rate=1e-3",
            "training.gradient_checkpointing=true",
            "training.report_to=[tensorboard, wandb]",
            "masking.block_size = 16",
            "data.held_out=a=b.jsonl",
            "teacher={path: t, dtype: bfloat16}",
        ],
    )
    training = recipe.training
    assert (training.max_steps, training.learning_rate, training.gradient_checkpointing) == (10, 1e-3, True)
    assert training.report_to == ["tensorboard", "wandb"]
    assert recipe.masking.block_size == 16
    assert recipe.data.held_out == "a=b.jsonl"
    assert recipe.teacher == ModelConfig("t", dtype="bfloat16")


def test_overrides_leave_the_rest_as_written(load, minimal):
    written = load(minimal).to_dict()
    written["training"]["seed"] = 3
    assert load(minimal, ["training.seed=3"]).to_dict() == written


def test_the_last_override_of_a_key_stands(load, minimal):
    assert load(minimal, ["training.seed=1", "training.seed=2"]).training.seed == 2


def test_nothing_after_the_equals_sign_is_null(load, minimal):
    assert load(f"{minimal}", ["data.teacher_max_length="]).data.teacher_max_length is None


def test_an_override_makes_the_section_it_needs(load, minimal):
    without = minimal.replace("teacher:\n  path: models/teacher\n", "")
    assert load(without, ["teacher.path=t"]).teacher == ModelConfig("t")
    assert load(f"{without}teacher: null\n", ["teacher.path=t"]).teacher == ModelConfig("t")


def test_an_override_rights_what_is_wrong_in_the_file(load, minimal):
    assert load(minimal.replace("100", "ten"), ["training.max_steps=10"]).training.max_steps == 10
    assert load(
        minimal.replace("path: models/teacher", "pth: x"), ["teacher={path: t}"]
    ).teacher == ModelConfig("t")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "training.max_steps=ten",
            "training.max_steps: expected a whole number, got 'ten'; write it in digits, such as 100",
        ),
        ("training.max_steps=0", "training.max_steps: must be at least 1, got 0"),
        ("training.max_steps=", "training.max_steps: expected a whole number, got null; give a value"),
        ("training.max_stepz=3", "training.max_stepz: unknown key; nearest known key: training.max_steps"),
        ("max_steps=3", "max_steps: unknown key; nearest known key: training.max_steps"),
        ("trainin.max_steps=3", "trainin.max_steps: unknown key; nearest known key: training.max_steps"),
        ("training.seed.x=3", "training.seed.x: unknown key; nearest known key: training.seed"),
        (
            "zzz.qqq=3",
            "zzz.qqq: unknown key; known keys here: method, student, teacher, data, masking, "
            "objective, training",
        ),
        (
            "data.sources.0.path=a",
            "data.sources.0.path: no item 0 in data.sources, which has 0, numbered from 0; give the list as "
            "a whole: data.sources=[{...}, {...}]",
        ),
        ("training.max_steps", "an override is key=value, such as training.max_steps=10"),
        ("=3", "an override is key=value, such as training.max_steps=10"),
        ("--seed=3", "--seed: unknown key; nearest known key: training.seed"),
        (
            "masking=3",
            "masking: expected a section of keys (block_size, time_epsilon, student_masking, demo_ratio), "
            "got 3 (a whole number); write them under it, one a line",
        ),
        ("teacher={path: t, pth: u}", "teacher.pth: unknown key; nearest known key: teacher.path"),
        (
            "teacher={path: t, path: u}",
            "teacher.path: given twice, first at override 'teacher={path: t, path: u}'; keep one",
        ),
        (
            "training.seed=[",
            "not valid YAML: while parsing a flow node, expected the node content, but found '<stream end>'; "
            "check indentation, colons and quotes",
        ),
        ("training.seed=*a", "not a recipe: aliases (*name) are not read; write one plain document"),
        (
            "method=kll",
            "method: expected one of none, kl, reverse_kl, taid, tidal, tide_shared, calm, tide_cross, "
            "got 'kll'; nearest: kl",
        ),
        (
            "data.max_length=100",
            "data.max_length: masking.block_size 32 does not divide the length 100; "
            "set the length to 96 or 128, or the block size to a divisor",
        ),
    ],
)
def test_a_wrong_override_is_quoted(errors, minimal, override, message):
    assert errors(minimal, [override]) == [f"override {override!r}: {message}"]


def test_a_wrong_section_in_the_file_stays_the_error(errors, minimal):
    found = errors(
        minimal.replace("teacher:\n  path: models/teacher", "teacher: models/teacher"),
        ["teacher.dtype=bfloat16"],
    )
    assert found == [
        "r.yaml:4: teacher: expected a section of keys (path), got 'models/teacher'; write "
        "them under it, one a line"
    ]


def test_a_section_that_an_override_replaces_has_no_lines_left(errors, minimal):
    override = "teacher={path: 5}"
    assert errors(minimal, [override]) == [
        f"override {override!r}: teacher.path: expected text, got 5 (a whole number); "
        "put it in quotes if it is meant as text"
    ]


def test_problems_of_file_and_overrides_come_together(errors, minimal):
    assert errors(minimal.replace("100", "0"), ["training.seed=x", "foo"]) == [
        "r.yaml:10: training.max_steps: must be at least 1, got 0",
        "override 'foo': an override is key=value, such as training.max_steps=10",
        "override 'training.seed=x': training.seed: expected a whole number, got 'x'; write it "
        "in digits, such as 100",
    ]


def test_one_text_in_place_of_a_list_is_refused():
    with pytest.raises(
        TypeError, match=r"overrides is a list of key=value texts, got the text 'training.seed=1'"
    ):
        load_recipe("r.yaml", "training.seed=1")

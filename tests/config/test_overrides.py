"""`key=value` texts over a file: the same checks, at the place of the override."""

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
    assert recipe.teacher == ModelConfig(path="t", dtype="bfloat16")


def test_overrides_leave_the_rest_as_written(load, minimal):
    written = load(minimal).to_dict()
    written["training"]["seed"] = 3
    assert load(minimal, ["training.seed=3"]).to_dict() == written


def test_the_last_override_of_a_key_stands(load, minimal):
    assert load(minimal, ["training.seed=1", "training.seed=2"]).training.seed == 2


def test_nothing_after_the_equals_sign_is_null(load, minimal):
    assert load(minimal, ["data.teacher_max_length="]).data.teacher_max_length is None


def test_an_override_makes_the_section_it_needs(load, minimal):
    without = minimal.replace("teacher:\n  path: models/teacher\n", "")
    assert load(without, ["teacher.path=t"]).teacher == ModelConfig(path="t")
    assert load(f"{without}teacher: null\n", ["teacher.path=t"]).teacher == ModelConfig(path="t")


def test_an_override_replaces_a_wrong_value_of_the_file(load, minimal):
    assert load(minimal.replace("100", "ten"), ["training.max_steps=10"]).training.max_steps == 10
    wrong = minimal.replace("path: models/teacher", "pth: x")
    assert load(wrong, ["teacher={path: t}"]).teacher == ModelConfig(path="t")


@pytest.mark.parametrize(
    ("override", "key", "words"),
    [
        ("training.max_steps=ten", "training.max_steps", "a whole number of at least 1"),
        ("training.max_steps=0", "training.max_steps", "at least 1"),
        ("training.max_stepz=3", "training.max_stepz", "nearest known key: training.max_steps"),
        ("max_steps=3", "max_steps", "nearest known key: training.max_steps"),
        ("trainin.max_steps=3", "trainin.max_steps", "nearest known key: training.max_steps"),
        ("training.seed.x=3", "training.seed.x", "nearest known key: training.seed"),
        ("--seed=3", "--seed", "nearest known key: training.seed"),
        (
            "zzz.qqq=3",
            "zzz.qqq",
            "known keys here: method, student, teacher, data, masking, objective, training",
        ),
        ("data.sources.0.path=a", "data.sources.0.path", "no item 0 in data.sources, which has 0"),
        ("training.max_steps", "", "an override is key=value"),
        ("=3", "", "an override is key=value"),
        ("masking=3", "masking", "a section of keys (block_size, time_epsilon, student_masking, "),
        ("teacher={path: t, pth: u}", "teacher.pth", "nearest known key: teacher.path"),
        ("teacher={path: t, path: u}", "teacher.path", "given twice"),
        ("teacher={path: 5}", "teacher.path", "expected text, got 5; quote it"),
        ("training.seed=[", "", "not valid YAML"),
        ("training.seed=*a", "", "aliases (*name) are not read"),
        ("method=kll", "method", "got 'kll'; nearest: kl"),
        ("data.max_length=100", "data.max_length", "set the length to 96 or 128"),
    ],
)
def test_a_wrong_override_is_quoted(problem, minimal, override, key, words):
    found = problem(minimal, [override])
    assert (str(found.place), found.key) == (f"override {override!r}", key)
    assert words in found.message


def test_a_wrong_section_in_the_file_stays_the_error(problem, minimal):
    wrong = minimal.replace("teacher:\n  path: models/teacher", "teacher: models/teacher")
    found = problem(wrong, ["teacher.dtype=bfloat16"])
    assert (found.place.line, found.key) == (4, "teacher")


def test_problems_of_file_and_overrides_come_together(problems, minimal):
    found = problems(minimal.replace("100", "0"), ["training.seed=x", "foo"])
    assert [(str(one.place), one.key) for one in found] == [
        ("r.yaml:10", "training.max_steps"),
        ("override 'foo'", ""),
        ("override 'training.seed=x'", "training.seed"),
    ]


def test_one_text_in_place_of_a_list_is_refused():
    with pytest.raises(TypeError, match=r"overrides is a list of key=value texts"):
        load_recipe("r.yaml", "training.seed=1")

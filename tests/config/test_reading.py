"""From text to a recipe: accepted spellings, and one problem for each wrong line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tide.config import ModelConfig
from tide.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]


def test_values_that_follow_from_others(load, minimal):
    recipe = load(minimal)
    assert (recipe.student.tokenizer_path, recipe.data.teacher_length) == ("models/student", 512)
    recipe = load(minimal, ["student.tokenizer=tok", "data.teacher_max_length=1024"])
    assert (recipe.student.tokenizer_path, recipe.data.teacher_length) == ("tok", 1024)


@pytest.mark.parametrize("written", ["5e-5", "5E-05", "0.00005", ".00005", '"5e-5"', "'0.00005'"])
def test_every_spelling_of_a_float(load, minimal, written):
    assert load(f"{minimal}  learning_rate: {written}\n").training.learning_rate == 5e-5


def test_a_whole_number_serves_as_a_float(load, minimal):
    weight_decay = load(f"{minimal}  weight_decay: 1\n").training.weight_decay
    assert weight_decay == 1.0 and type(weight_decay) is float


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "2024-01-01", "1:30"])
def test_words_that_yaml_1_1_converts_stay_text(load, minimal, word):
    assert load(minimal.replace("runs/one", word)).training.output_dir == word


def test_method_none_is_a_word_and_may_keep_its_teacher(load, minimal):
    recipe = load(minimal.replace("tide_shared", "none"))
    assert recipe.method == "none" and recipe.teacher == ModelConfig(path="models/teacher")
    assert load(minimal, ["method=none", "teacher=null"]).teacher is None


@pytest.mark.parametrize("method", METHODS)
def test_every_method_loads(load, minimal, method):
    assert load(minimal.replace("tide_shared", method)).method == method


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        # Unknown keys: the same name elsewhere, a near one here, a near one elsewhere, none.
        ("  max_step: 3", "training.max_step", "nearest known key: training.max_steps"),
        ("  block_size: 16", "training.block_size", "nearest known key: masking.block_size"),
        ("  temperatur: 1", "training.temperatur", "nearest known key: objective.temperature"),
        ("studnt: {path: x}", "studnt", "nearest known key: student"),
        ("qqq: 1", "qqq", "known keys here: method, student, teacher, data, masking, objective, training"),
        ("training.seed: 1", "training.seed", "write seed under training"),
        ("<<: {seed: 1}", "<<", "known keys here"),
        ('"a\\nb": 1', "'a\\nb'", "known keys here"),
        # Types.
        ("  seed: ten", "training.seed", "a whole number of at least 0 and at most 4294967295, got 'ten'"),
        ("  seed: 1e4", "training.seed", "got 10000.0; write 10000"),
        ("  seed: 0.5", "training.seed", "got 0.5"),
        ("  seed: true", "training.seed", "got true"),
        ('  seed: "1"', "training.seed", "got '1'"),
        ("  seed:", "training.seed", "got null; give a value, or leave the key out"),
        ("  learning_rate: fast", "training.learning_rate", "a number above 0, got 'fast'"),
        ("  learning_rate: false", "training.learning_rate", "got false"),
        ("  learning_rate: .nan", "training.learning_rate", "got '.nan'"),
        ("  learning_rate: 1e999", "training.learning_rate", "got inf"),
        ("  learning_rate: [1]", "training.learning_rate", "got [1]"),
        ("  gradient_checkpointing: yes", "training.gradient_checkpointing", "true or false, got 'yes'"),
        ("  gradient_checkpointing: 1", "training.gradient_checkpointing", "true or false, got 1"),
        ("  report_to: wandb", "training.report_to", "a list of text, got 'wandb'; write ['wandb']"),
        ("  report_to: [1]", "training.report_to", "a list of text, got [1]"),
        ("  report_to: ['']", "training.report_to", "must not be blank"),
        ("  precision: bf61", "training.precision", "one of fp32, bf16, got 'bf61'; nearest: bf16"),
        ("  precision: 16", "training.precision", "one of fp32, bf16, got 16"),
        ("masking: 32", "masking", "a section of keys (block_size, time_epsilon, "),
        ("masking:", "masking", "a section of keys"),
        (
            "objective: {lambda_axis: time}",
            "objective.lambda_axis",
            "one of both, training, timestep or null",
        ),
        # Bounds.
        ("  batch_size: 0", "training.batch_size", "of at least 1, got 0"),
        ("  learning_rate: 0", "training.learning_rate", "above 0, got 0"),
        ("  warmup_ratio: 1.5", "training.warmup_ratio", "at least 0 and at most 1, got 1.5"),
        ("  seed: -1", "training.seed", "got -1"),
        ("  seed: 4294967296", "training.seed", "got 4294967296"),
        ("masking: {time_epsilon: 1}", "masking.time_epsilon", "above 0 and below 1, got 1"),
        ("masking: {time_epsilon: 0.0}", "masking.time_epsilon", "above 0 and below 1, got 0.0"),
        ("masking: {demo_ratio: 0}", "masking.demo_ratio", "above 0 and below 1"),
        ("masking: {demo_ratio: 1.0}", "masking.demo_ratio", "above 0 and below 1"),
        ("masking: {block_size: 0}", "masking.block_size", "at least 1"),
        ("objective: {temperature: 0}", "objective.temperature", "at least 0.01"),
        ("objective: {chunk_temperature: -2}", "objective.chunk_temperature", "at least 0.01"),
        ("objective: {lambda_max: 1.1}", "objective.lambda_max", "at most 1"),
        ("objective: {lambda_init: -0.1}", "objective.lambda_init", "at least 0"),
        ("objective: {chunk_eps: 0.5}", "objective.chunk_eps", "below 0.5"),
        ("objective: {chunk_eps: 0}", "objective.chunk_eps", "above 0"),
        # YAML that gives a key twice, or a value in another way.
        ("  max_steps: 7", "training.max_steps", "given twice, first at r.yaml:10; keep one"),
        ("method: kl", "method", "given twice, first at r.yaml:1; keep one"),
        ("  seed: !!int ten", "training.seed", "the tag !!int"),
        ("  seed: !me 1", "training.seed", "the tag !me"),
        ("  ? [a]\n  : 1", "training", "a key is plain text"),
    ],
)
def test_a_wrong_line_is_named(problem, minimal, line, key, words):
    found = problem(f"{minimal}{line}\n")
    assert (str(found.place), found.key) == ("r.yaml:11", key)
    assert words in found.message


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "words"),
    [
        ("method: tide_shared\n", "", None, "method", "missing; add method (one of none, kl, "),
        ("tide_shared", "tide_shard", 1, "method", "got 'tide_shard'; nearest: tide_shared"),
        ("  path: models/student", "  tokenizer: t", 2, "student.path", "add path (text) under student"),
        (
            "data:\n  train: data/train.jsonl\n",
            "",
            None,
            "data",
            "missing; add data (a section of keys (train, ",
        ),
        ("  path: models/student", "  path:", 3, "student.path", "expected text, got null"),
        ("student:\n  path: models/student", "student: x", 2, "student", "a section of keys (path), got 'x'"),
        ("models/teacher", "5", 5, "teacher.path", "expected text, got 5; quote it if it is text"),
        ("models/teacher", "[a]", 5, "teacher.path", "expected text, got ['a']"),
        ("models/teacher", "'  '", 5, "teacher.path", "must not be blank, got '  '; give a value"),
        (
            "models/teacher",
            '"a\\0b"',
            5,
            "teacher.path",
            "plain text, got 'a\\x00b'; remove the control characters",
        ),
        ("  path: models/teacher", "  path: !x models/teacher", 5, "teacher.path", "the tag !x"),
    ],
)
def test_a_wrong_or_missing_required_value_is_named(problem, minimal, old, new, line, key, words):
    found = problem(minimal.replace(old, new))
    assert (found.place.line, found.key) == (line, key)
    assert words in found.message


def test_problems_come_in_the_order_of_the_file(problems):
    text = (
        "training: {max_steps: 0}\nmethod: kl\ndata: {train: t.jsonl, max_length: 100}\nstudent: {path: 5}\n"
    )
    lines = [found.place.line for found in problems(text)]
    assert lines == [1, 1, 3, 4, None]


def test_a_recipe_is_read_without_torch_or_transformers():
    code = (
        "import sys\n"
        "from tide.config import load_recipe; load_recipe('recipes/quickstart_cross.yaml')\n"
        "assert not {'torch', 'transformers', 'numpy'} & sys.modules.keys()\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, env={"PYTHONPATH": str(ROOT)}
    )

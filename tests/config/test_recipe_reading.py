"""From text to a recipe: what is accepted, and one exact line for what is not."""

from __future__ import annotations

import pytest

from tide.config import (
    DataConfig,
    MaskingConfig,
    ModelConfig,
    ObjectiveConfig,
    Recipe,
    TrainingConfig,
)
from tide.methods import METHODS


def test_a_minimal_recipe_has_the_defaults(load, minimal):
    assert load(minimal) == Recipe(
        method="tide_shared",
        student=ModelConfig(path="models/student", tokenizer=None, dtype="float32", trainable=None),
        teacher=ModelConfig(path="models/teacher", tokenizer=None, dtype="float32", trainable=None),
        data=DataConfig(
            train="data/train.jsonl", held_out=None, max_length=512, teacher_max_length=None, num_workers=0
        ),
        masking=MaskingConfig(block_size=32, time_epsilon=1e-3, student_masking="tokens", demo_ratio=0.5),
        objective=ObjectiveConfig(
            temperature=2.0,
            chunk_temperature=2.0,
            ce_weight=1.0,
            distill_weight=1.0,
            lambda_init=0.1,
            lambda_max=0.9,
            lambda_decay="cosine",
            lambda_axis=None,
            timestep_weight=None,
            chunk_eps=1e-7,
            chunk_divergence="bce",
            ce_normalizer="token",
        ),
        training=TrainingConfig(
            output_dir="runs/one",
            max_steps=100,
            batch_size=8,
            gradient_accumulation_steps=1,
            learning_rate=5e-5,
            warmup_ratio=0.1,
            lr_scheduler="cosine",
            weight_decay=0.0,
            max_grad_norm=1.0,
            precision="fp32",
            seed=0,
            logging_steps=10,
            save_steps=500,
            save_total_limit=2,
            report_to=[],
            gradient_checkpointing=False,
        ),
    )


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
def test_words_that_older_yaml_would_convert_stay_text(load, minimal, word):
    assert load(minimal.replace("runs/one", word)).training.output_dir == word


def test_method_none_is_a_word_and_may_keep_its_teacher(load, minimal):
    recipe = load(minimal.replace("tide_shared", "none"))
    assert recipe.method == "none" and recipe.teacher == ModelConfig("models/teacher")
    assert load(minimal, ["method=none", "teacher=null"]).teacher is None


@pytest.mark.parametrize("method", METHODS)
def test_every_method_loads(load, minimal, method):
    assert load(minimal.replace("tide_shared", method)).method == method


def test_method_names_are_those_of_the_objective():
    pass


@pytest.mark.parametrize(
    ("line", "message"),
    [
        # Unknown keys: the same name elsewhere, a near one here, a near one elsewhere, none.
        ("  max_step: 3", "training.max_step: unknown key; nearest known key: training.max_steps"),
        ("  block_size: 16", "training.block_size: unknown key; nearest known key: masking.block_size"),
        ("  temperatur: 1", "training.temperatur: unknown key; nearest known key: objective.temperature"),
        ("studnt: {path: x}", "studnt: unknown key; nearest known key: student"),
        (
            "qqq: 1",
            "qqq: unknown key; known keys here: method, student, teacher, data, masking, objective, training",
        ),
        (
            "training.seed: 1",
            "training.seed: unknown key; dots nest in overrides only: write seed under training",
        ),
        ("<<: {seed: 1}", "<<: unknown key; known keys here: method, student, teacher, data, masking, "),
        ('"a\\nb": 1', "'a\\nb': unknown key; known keys here: "),
        # Types.
        ("  seed: ten", "training.seed: expected a whole number, got 'ten'; write it in digits, such as 100"),
        ("  seed: 1e4", "training.seed: expected a whole number, got 10000.0 (a number); write 10000"),
        ("  seed: 0.5", "training.seed: expected a whole number, got 0.5 (a number); write it in digits"),
        ("  seed: true", "training.seed: expected a whole number, got true; write it in digits"),
        ('  seed: "1"', "training.seed: expected a whole number, got '1'; write it in digits"),
        ("  seed:", "training.seed: expected a whole number, got null; give a value, or leave the key out"),
        (
            "  learning_rate: fast",
            "training.learning_rate: expected a number, got 'fast'; write it as 0.1, 5 or",
        ),
        (
            "  learning_rate: false",
            "training.learning_rate: expected a number, got false; write it as 0.1, 5 or",
        ),
        ("  learning_rate: .nan", "training.learning_rate: expected a number, got '.nan'; write it as 0.1"),
        (
            "  learning_rate: 1e999",
            "training.learning_rate: expected a number, got inf (a number); give a finite",
        ),
        ("  learning_rate: [1]", "training.learning_rate: expected a number, got [1] (a list); write it as"),
        (
            "  gradient_checkpointing: yes",
            "expected true or false, got 'yes'; write true or false, without quotes",
        ),
        (
            "  gradient_checkpointing: 1",
            "expected true or false, got 1 (a whole number); write true or false",
        ),
        ("  report_to: wandb", "training.report_to: expected a list of text, got 'wandb'; write ['wandb']"),
        (
            "  report_to: [1]",
            "training.report_to: expected a list of text, got [1] (a list); write [one, two], or",
        ),
        ("  report_to: ['']", "training.report_to: must not be blank, got ''; give a value"),
        ("  precision: bf61", "training.precision: expected one of fp32, bf16, got 'bf61'; nearest: bf16"),
        ("  precision: 16", "training.precision: expected one of fp32, bf16, got 16 (a whole number)"),
        (
            "masking: 32",
            "masking: expected a section of keys (block_size, time_epsilon, student_masking, demo_ratio)",
        ),
        (
            "masking:",
            "masking: expected a section of keys (block_size, time_epsilon, student_masking, demo_ratio), ",
        ),
        # Bounds.
        ("  batch_size: 0", "training.batch_size: must be at least 1, got 0"),
        (
            "  gradient_accumulation_steps: 0",
            "training.gradient_accumulation_steps: must be at least 1, got 0",
        ),
        ("  learning_rate: 0", "training.learning_rate: must be above 0, got 0"),
        ("  warmup_ratio: 1.5", "training.warmup_ratio: must be at least 0 and at most 1, got 1.5"),
        ("  seed: -1", "training.seed: must be at least 0 and at most 4294967295, got -1"),
        ("  seed: 4294967296", "training.seed: must be at least 0 and at most 4294967295, got 4294967296"),
        ("masking: {time_epsilon: 1}", "masking.time_epsilon: must be above 0 and below 1, got 1"),
        ("masking: {time_epsilon: 0.0}", "masking.time_epsilon: must be above 0 and below 1, got 0.0"),
        ("masking: {demo_ratio: 0}", "masking.demo_ratio: must be above 0 and below 1, got 0"),
        ("masking: {demo_ratio: 1.0}", "masking.demo_ratio: must be above 0 and below 1, got 1.0"),
        ("masking: {block_size: 0}", "masking.block_size: must be at least 1, got 0"),
        ("objective: {temperature: 0}", "objective.temperature: must be above 0, got 0"),
        ("objective: {chunk_temperature: -2}", "objective.chunk_temperature: must be above 0, got -2"),
        ("objective: {lambda_max: 1.1}", "objective.lambda_max: must be at least 0 and at most 1, got 1.1"),
        (
            "objective: {lambda_init: -0.1}",
            "objective.lambda_init: must be at least 0 and at most 1, got -0.1",
        ),
        ("objective: {chunk_eps: 0.5}", "objective.chunk_eps: must be above 0 and below 0.5, got 0.5"),
        ("objective: {chunk_eps: 0}", "objective.chunk_eps: must be above 0 and below 0.5, got 0"),
        (
            "objective: {lambda_axis: time}",
            "expected one of both, training, timestep or null, got 'time'; nearest: ",
        ),
        # YAML that says a thing twice, or in another way.
        ("  max_steps: 7", "training.max_steps: given twice, first at r.yaml:10; keep one"),
        ("method: kl", "method: given twice, first at r.yaml:1; keep one"),
        ("  seed: !!int ten", "training.seed: the tag !!int is not read here; write the plain value"),
        ("  seed: !me 1", "training.seed: the tag !me is not read here; write the plain value"),
        ("  ? [a]\n  : 1", "training: a key is plain text; got a list or a mapping. Write key: value"),
    ],
)
def test_a_wrong_line_is_named(errors, minimal, line, message):
    found = errors(f"{minimal}{line}\n")
    assert [where for where in found if message in where] == found[:1], found
    assert found[0].startswith("r.yaml:11: ")
    assert len(found) == 1


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "method: tide_shared\n",
            "",
            "r.yaml: method: required key is missing; add method (one of none, kl, reverse_kl, taid, tidal, "
            "tide_shared, calm, tide_cross)",
        ),
        (
            "tide_shared",
            "tide_shard",
            "r.yaml:1: method: expected one of none, kl, reverse_kl, taid, tidal, tide_shared, "
            "calm, tide_cross, "
            "got 'tide_shard'; nearest: tide_shared",
        ),
        (
            "  path: models/student",
            "  tokenizer: t",
            "r.yaml:2: student.path: required key is missing; add path (text) under student",
        ),
        (
            "  max_steps: 100\n",
            "",
            "r.yaml:8: training.max_steps: required key is missing; add max_steps (a whole "
            "number) under training",
        ),
        ("  max_steps: 100", "  max_steps: 0", "r.yaml:10: training.max_steps: must be at least 1, got 0"),
        (
            "  max_steps: 100",
            "  max_steps:",
            "r.yaml:10: training.max_steps: expected a whole number, got null; give a value",
        ),
        (
            "data:\n  train: data/train.jsonl\n",
            "",
            "r.yaml: data: required key is missing; add data (a section of keys (train, sources, prepared, "
            "held_out, ...))",
        ),
        (
            "student:\n  path: models/student",
            "student: models/student",
            "r.yaml:2: student: expected a section of keys (path), got 'models/student'; write "
            "them under it, one a line",
        ),
        (
            "models/teacher",
            "5",
            "r.yaml:5: teacher.path: expected text, got 5 (a whole number); put it in quotes "
            "if it is meant as text",
        ),
        ("models/teacher", "[a]", "r.yaml:5: teacher.path: expected text, got ['a'] (a list); give one text"),
        ("models/teacher", "'  '", "r.yaml:5: teacher.path: must not be blank, got '  '; give a value"),
        (
            "models/teacher",
            '"a\\0b"',
            "r.yaml:5: teacher.path: must be one line of plain text, got 'a\\x00b'; remove the "
            "control characters",
        ),
    ],
)
def test_a_wrong_or_missing_required_value_is_named(errors, minimal, old, new, expected):
    assert errors(minimal.replace(old, new)) == [expected]


def test_all_problems_come_at_once_in_the_order_of_the_file(errors):
    text = """\
training: {max_steps: 0, seeds: 1}
objective: {lambda_init: 0.95}
method: kl
data: {train: t.jsonl, max_length: 100}
student: {path: s, dtype: float16}
"""
    assert [line.split(";")[0] for line in errors(text)] == [
        "r.yaml:1: training.seeds: unknown key",
        "r.yaml:1: training.output_dir: required key is missing",
        "r.yaml:1: training.max_steps: must be at least 1, got 0",
        "r.yaml:2: objective.lambda_init: 0.95 is above objective.lambda_max 0.9, but lambda "
        "grows in training",
        "r.yaml:4: data.max_length: masking.block_size 32 does not divide the length 100",
        "r.yaml:5: student.dtype: the student is trained on float32 master weights, got float16",
        "r.yaml: teacher: method kl needs a teacher",
    ]


def test_a_rule_waits_for_the_values_it_reads(errors, minimal):
    """A wrong block size is one problem, not two; so is a teacher that is there but wrong."""
    assert errors(f"{minimal}masking: {{block_size: x}}\n") == [
        "r.yaml:11: masking.block_size: expected a whole number, got 'x'; write it in digits, such as 100"
    ]
    assert errors(minimal.replace("  path: models/teacher", "  path: !x models/teacher")) == [
        "r.yaml:5: teacher.path: the tag !x is not read here; write the plain value"
    ]

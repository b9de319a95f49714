"""Rules between fields: a contradiction is one line at its key, with its remedy; what is near is accepted."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (
            ["teacher=null"],
            "teacher",
            "method tide_shared needs a teacher; add teacher: with its path, or set method: none",
        ),
        (
            ["student.dtype=bfloat16"],
            "student.dtype",
            "the student is trained on float32 master weights, got bfloat16; leave dtype out, "
            "and set training.precision: bf16 for bf16 arithmetic",
        ),
        (
            ["student.trainable=false"],
            "student.trainable",
            "the student is the model that trains, got false; leave trainable out",
        ),
        (
            ["teacher.trainable=true"],
            "teacher.trainable",
            "a teacher that would train, got true; the teacher is frozen: leave trainable out",
        ),
        (
            ["data.max_length=500"],
            "data.max_length",
            "masking.block_size 32 does not divide the length 500; set the length to 480 or 512, "
            "or the block size to a divisor",
        ),
        (
            ["data.max_length=20"],
            "data.max_length",
            "masking.block_size 32 does not divide the length 20; set the length to 32, or the "
            "block size to a divisor",
        ),
        (
            ["data.teacher_max_length=1025"],
            "data.teacher_max_length",
            "masking.block_size 32 does not divide the length 1025; set the length to 1024 or 1056, "
            "or the block size to a divisor",
        ),
        (
            ["objective.lambda_init=0.7", "objective.lambda_max=0.25"],
            "objective.lambda_init",
            "0.7 is above objective.lambda_max 0.25, but lambda grows in training; lower "
            "lambda_init or raise lambda_max",
        ),
        (
            ["objective.ce_weight=0", "objective.distill_weight=0"],
            "objective.distill_weight",
            "this and objective.ce_weight are both 0, so nothing would be learned; set one of them above 0",
        ),
        (
            ["objective.ce_weight=0", "method=none"],
            "objective.distill_weight",
            "method none learns from cross-entropy alone, and objective.ce_weight is 0; set "
            "ce_weight above 0",
        ),
        (
            ["data.held_out=./data/../data/train.jsonl"],
            "data.held_out",
            "the same file as data.train ('data/train.jsonl'), so it would measure memory; "
            "give other text, or null",
        ),
        (
            ["training.output_dir=models/teacher/"],
            "training.output_dir",
            "'models/teacher/' is teacher.path, whose weights would be written over; give a "
            "directory of its own",
        ),
        (
            ["training.output_dir=./models/student"],
            "training.output_dir",
            "'./models/student' is student.path, whose weights would be written over; give a "
            "directory of its own",
        ),
    ],
)
def test_a_contradiction_is_named_with_its_remedy(errors, minimal, overrides, key, message):
    (line,) = errors(minimal, overrides)
    assert line.endswith(f": {key}: {message}")


@pytest.mark.parametrize(
    "overrides",
    [
        ["teacher=null", "method=none"],
        ["student.dtype=float32"],
        ["student.trainable=true", "teacher.trainable=false"],
        ["teacher.dtype=bfloat16"],
        ["data.max_length=500", "masking.block_size=50"],
        ["data.max_length=32"],
        ["data.teacher_max_length=1024"],
        ["objective.lambda_init=0.9", "objective.lambda_max=0.9"],
        ["objective.lambda_init=0", "objective.lambda_max=1"],
        ["objective.ce_weight=0"],
        ["objective.distill_weight=0"],
        ["objective.distill_weight=0", "method=none"],
        ["data.held_out=data/held_out.jsonl"],
        ["training.output_dir=models"],
    ],
)
def test_what_comes_near_a_contradiction_is_accepted(load, minimal, overrides):
    load(minimal, overrides)


def test_the_output_directory_is_compared_through_links(errors, minimal):
    Path("models/teacher").mkdir(parents=True)
    Path("link").symlink_to("models/teacher")
    (line,) = errors(minimal, ["training.output_dir=link"])
    assert "'link' is teacher.path" in line


def test_paths_are_relative_to_the_current_directory(load, minimal, tmp_path, monkeypatch):
    Path("models/student").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    recipe = load(
        minimal, ["teacher.path=Qwen/Qwen3-0.6B", "data.train=~/train.jsonl", "student.tokenizer=hub/tok"]
    )
    assert recipe.resolved_paths == {
        "student.path": str(tmp_path / "models/student"),
        "student.tokenizer": "hub/tok",
        "teacher.path": "Qwen/Qwen3-0.6B",
        "teacher.tokenizer": "Qwen/Qwen3-0.6B",
        "data.train": str(tmp_path / "home/train.jsonl"),
        "training.output_dir": str(tmp_path / "runs/one"),
    }
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert recipe.resolved_paths["training.output_dir"] == str(tmp_path / "elsewhere/runs/one")

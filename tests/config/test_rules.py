"""Rules between values: a contradiction is one problem at its key; a recipe just inside each rule loads."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["teacher=null"], "teacher", "needs a teacher; add teacher"),
        (["student.dtype=bfloat16"], "student.dtype", "set training.precision: bf16"),
        (["student.trainable=false"], "student.trainable", "leave trainable out"),
        (["teacher.trainable=true"], "teacher.trainable", "frozen, got true; leave trainable out"),
        (
            ["data.max_length=500"],
            "data.max_length",
            "does not divide the length 500; set the length to 480 or 512",
        ),
        (["data.max_length=20"], "data.max_length", "set the length to 32, or"),
        (["data.teacher_max_length=1025"], "data.teacher_max_length", "set the length to 1024 or 1056"),
        (
            ["objective.lambda_init=0.7", "objective.lambda_max=0.25"],
            "objective.lambda_init",
            "0.7 is above objective.lambda_max 0.25",
        ),
        (["objective.ce_weight=0", "objective.distill_weight=0"], "objective.distill_weight", "both 0"),
        (["objective.ce_weight=0", "method=none"], "objective.distill_weight", "set ce_weight above 0"),
        (["data.held_out=./data/../data/train.jsonl"], "data.held_out", "the same file as data.train"),
        (
            ["data.held_out=data/train.jsonl", "data.held_out_split=validation"],
            "data.held_out",
            "the same file as data.train",
        ),
        (
            ["data.train=.", "data.held_out=.", "data.held_out_split=train"],
            "data.held_out",
            "split 'train' of '.', as data.train",
        ),
        (
            ["data.train=null", "data.sources=[{path: org/a, split: test}]", "data.held_out=org/a"],
            "data.held_out",
            "split 'test' of 'org/a', as a source",
        ),
        (
            ["data.train=null", "data.sources=[{path: a.jsonl}]", "data.held_out=x/../a.jsonl"],
            "data.held_out",
            "the same file as a source",
        ),
        (["data.train=null"], "data", "nothing to train on"),
        (["data.sources=[{path: a}, {path: b}]"], "data", "both train ('data/train.jsonl') and 2 sources"),
        (["data.prepared=runs/one/"], "data.prepared", "is training.output_dir"),
        (["data.chunk_merging=words"], "data.chunk_merging", "set method: calm or tide_cross"),
        (["masking.student_masking=chunks"], "masking.student_masking", "set method: calm or tide_cross"),
        (
            ["method=calm", "data.chunk_max_tokens=8", "data.chunk_max_bytes=9"],
            "data.chunk_merging",
            "data.chunk_max_bytes 9 and data.chunk_max_tokens 8",
        ),
        (["method=calm", "data.chunk_merging=length"], "data.chunk_merging", "give data.chunk_max_tokens or"),
        (["training.output_dir=models/teacher/"], "training.output_dir", "is teacher.path"),
        (["training.output_dir=./models/student"], "training.output_dir", "is student.path"),
    ],
)
def test_a_contradiction_is_named_with_its_remedy(problem, minimal, overrides, key, words):
    found = problem(minimal, overrides)
    assert found.key == key and words in found.message


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
        ["data.train=.", "data.held_out=."],
        ["data.train=org/a", "data.held_out=org/a", "data.held_out_split=validation"],
        ["data.train=null", "data.prepared=runs/data"],
        ["method=calm", "data.chunk_merging=words"],
        ["method=calm", "data.chunk_merging=words", "data.chunk_max_tokens=8"],
        ["method=calm", "data.chunk_merging=length", "data.chunk_max_bytes=8"],
        ["training.output_dir=models"],
    ],
)
def test_a_recipe_inside_the_rules_loads(load, minimal, overrides):
    load(minimal, overrides)


@pytest.mark.parametrize("merging", ["none", "words", "length"])
@pytest.mark.parametrize("max_bytes", [None, 3])
@pytest.mark.parametrize("max_tokens", [None, 2])
def test_chunk_limits_are_refused_where_alignment_refuses_them(load, minimal, merging, max_bytes, max_tokens):
    from tide.alignment import check_merging

    def is_accepted(checked) -> bool:
        try:
            checked()
        except ValueError:
            return False
        return True

    values = {"chunk_merging": merging, "chunk_max_bytes": max_bytes, "chunk_max_tokens": max_tokens}
    overrides = [f"data.{key}={'null' if value is None else value}" for key, value in values.items()]
    by_recipe = is_accepted(lambda: load(minimal, ["method=calm", *overrides]))
    assert by_recipe == is_accepted(lambda: check_merging("test", merging, max_bytes, max_tokens))


def test_every_parameter_of_apply_chat_template_is_taken():
    from transformers import PreTrainedTokenizerBase
    from transformers.utils.chat_template_utils import render_jinja_template

    from tide.config.rules import TAKEN_NAMES

    for function in (PreTrainedTokenizerBase.apply_chat_template, render_jinja_template):
        assert set(inspect.signature(function).parameters) <= TAKEN_NAMES


def test_the_output_directory_is_compared_through_links(problem, minimal):
    Path("models/teacher").mkdir(parents=True)
    Path("link").symlink_to("models/teacher")
    assert "'link' is teacher.path" in problem(minimal, ["training.output_dir=link"]).message


def test_a_rule_waits_for_the_values_it_reads_and_for_no_others(problems, minimal):
    text = """\
training: {max_steps: 0, seeds: 1}
objective: {lambda_init: "0.95", temperature: x}
method: kl
data: {train: t.jsonl, max_length: 100, held_out: t.jsonl, chunk_max_bytes: x}
student: {path: s, dtype: float16, pth: x}
"""
    assert {(found.place.line, found.key) for found in problems(text)} == {
        (1, "training.seeds"),
        (1, "training.output_dir"),
        (1, "training.max_steps"),
        (2, "objective.temperature"),
        (2, "objective.lambda_init"),
        (4, "data.chunk_max_bytes"),
        (4, "data.max_length"),
        (4, "data.held_out"),
        (5, "student.pth"),
        (5, "student.dtype"),
        (None, "teacher"),
    }
    for line in ("masking: {block_size: x}", "method: calm", "objective: {lambda_init: 5}"):
        found = problems(f"{minimal}{line}\n")
        assert [(one.place.line, one.key) for one in found] == [(11, found[0].key)]

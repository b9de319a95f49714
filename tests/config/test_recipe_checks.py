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
            ["data.train=.", "data.held_out=.", "data.held_out_split=train"],
            "data.held_out",
            "split 'train' of '.', as data.train, so it would measure memory; give another held_out_split or "
            "other text, or null",
        ),
        (
            ["data.train=null", "data.sources=[{path: org/a, split: test}]", "data.held_out=org/a"],
            "data.held_out",
            "split 'test' of 'org/a', as a source, so it would measure memory; give another held_out_split "
            "or other text, or null",
        ),
        (
            ["data.held_out=data/train.jsonl", "data.held_out_split=validation"],
            "data.held_out",
            "the same file as data.train ('data/train.jsonl'), so it would measure memory; "
            "give other text, or null",
        ),
        (
            ["method=calm", "data.chunk_max_tokens=8", "data.chunk_max_bytes=9"],
            "data.chunk_merging",
            "'none' merges no chunks, and data.chunk_max_bytes 9 and data.chunk_max_tokens 8 would limit "
            "merged ones; set chunk_merging: words or length, or leave the limit out",
        ),
        (
            ["method=calm", "data.chunk_merging=length"],
            "data.chunk_merging",
            "'length' merges chunks up to a limit, and there is none; give data.chunk_max_tokens or "
            "data.chunk_max_bytes, or set chunk_merging: words",
        ),
        (
            ["method=calm", "data.chunk_merging=length", "data.chunk_max_tokens=0"],
            "data.chunk_max_tokens",
            "must be at least 1, got 0",
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
        ["data.train=.", "data.held_out=."],
        ["data.train=org/a", "data.held_out=org/a", "data.held_out_split=validation"],
        ["method=calm", "data.chunk_merging=words"],
        ["method=calm", "data.chunk_merging=words", "data.chunk_max_tokens=8"],
        ["method=calm", "data.chunk_merging=length", "data.chunk_max_bytes=8"],
        ["training.output_dir=models"],
    ],
)
def test_what_comes_near_a_contradiction_is_accepted(load, minimal, overrides):
    load(minimal, overrides)


@pytest.mark.parametrize("merging", ["none", "words", "length"])
@pytest.mark.parametrize("max_bytes", [None, 3])
@pytest.mark.parametrize("max_tokens", [None, 2])
def test_chunk_limits_are_refused_where_alignment_would(load, minimal, merging, max_bytes, max_tokens):
    from tide.alignment import check_merging

    def is_fine(checked) -> bool:
        try:
            checked()
        except ValueError:
            return False
        return True

    values = {"chunk_merging": merging, "chunk_max_bytes": max_bytes, "chunk_max_tokens": max_tokens}
    overrides = [f"data.{key}={'null' if value is None else value}" for key, value in values.items()]
    of_recipe = is_fine(lambda: load(minimal, ["method=calm", *overrides]))
    assert of_recipe == is_fine(lambda: check_merging("test", merging, max_bytes, max_tokens))


def test_suffixes_of_files_are_those_of_sources():
    from tide.config.checks import FILE_SUFFIXES
    from tide.data.sources import SUFFIXES

    assert all(suffix.endswith(FILE_SUFFIXES) for suffix in SUFFIXES)
    assert all(any(suffix.endswith(end) for suffix in SUFFIXES) for end in FILE_SUFFIXES)


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

"""Rules between the fields of a recipe, each with its remedy. Known before any model or data is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from tide.config.strict import Rule

RULES: list[Rule] = []


class SourcePath(Protocol):
    """What a rule reads of a source."""

    path: str


def _rule(*keys: str) -> Callable[[Callable[..., str | None]], Callable[..., str | None]]:
    """Register a rule over the values of these keys; a problem is reported at the first of them."""

    def register(broken: Callable[..., str | None]) -> Callable[..., str | None]:
        RULES.append(Rule(keys, broken))
        return broken

    return register


@_rule("teacher", "method")
def _method_has_its_teacher(teacher: object, method: str) -> str | None:
    if teacher is None and method != "none":
        return f"method {method} needs a teacher; add teacher: with its path, or set method: none"
    return None


@_rule("student.dtype")
def _student_trains_in_fp32(dtype: str) -> str | None:
    if dtype != "float32":
        # At a learning rate of 5e-5, most updates are smaller than half a bf16 step of the weight and vanish.
        return (
            f"the student is trained on float32 master weights, got {dtype}; leave dtype out, "
            "and set training.precision: bf16 for bf16 arithmetic"
        )
    return None


@_rule("student.trainable")
def _student_trains(trainable: bool | None) -> str | None:
    if trainable is False:
        return "the student is the model that trains, got false; leave trainable out"
    return None


@_rule("teacher.trainable")
def _teacher_is_frozen(trainable: bool | None) -> str | None:
    if trainable is True:
        return "a teacher that would train, got true; the teacher is frozen: leave trainable out"
    return None


@_rule("data.max_length", "masking.block_size")
def _blocks_fill_the_student(max_length: int, block_size: int) -> str | None:
    return _fills(max_length, block_size)


@_rule("data.teacher_max_length", "masking.block_size")
def _blocks_fill_the_teacher(teacher_max_length: int | None, block_size: int) -> str | None:
    return None if teacher_max_length is None else _fills(teacher_max_length, block_size)


def _fills(length: int, block_size: int) -> str | None:
    if length % block_size == 0:
        return None
    below = length - length % block_size
    choices = f"{below} or {below + block_size}" if below else f"{block_size}"
    return (
        f"masking.block_size {block_size} does not divide the length {length}; "
        f"set the length to {choices}, or the block size to a divisor"
    )


@_rule("masking.student_masking", "method")
def _chunks_come_from_two_tokenizers(student_masking: str, method: str) -> str | None:
    if student_masking == "chunks" and method not in ("calm", "tide_cross"):
        return (
            f"'chunks' needs the chunks of two tokenizers, which method {method} has not; "
            "leave student_masking out, or set method: calm or tide_cross"
        )
    return None


@_rule("objective.lambda_init", "objective.lambda_max")
def _lambda_grows(lambda_init: float, lambda_max: float) -> str | None:
    if lambda_init > lambda_max:
        return (
            f"{lambda_init:g} is above objective.lambda_max {lambda_max:g}, but lambda grows in training; "
            "lower lambda_init or raise lambda_max"
        )
    return None


@_rule("objective.distill_weight", "objective.ce_weight", "method")
def _something_is_learned(distill_weight: float, ce_weight: float, method: str) -> str | None:
    if ce_weight > 0 or (method != "none" and distill_weight > 0):
        return None
    if method == "none":
        return (
            "method none learns from cross-entropy alone, and objective.ce_weight is 0; set ce_weight above 0"
        )
    return "this and objective.ce_weight are both 0, so nothing would be learned; set one of them above 0"


@_rule("data", "data.train", "data.sources", "data.prepared")
def _there_is_data(_: object, train: str | None, sources: list[object], prepared: str | None) -> str | None:
    if train is None and not sources and prepared is None:
        return (
            "nothing to train on; give data.train, or data.sources as a list of path: lines, or "
            "data.prepared alone to read shards that are there"
        )
    if train is not None and sources:
        return f"both train ({train!r}) and {len(sources)} sources; add train to the sources, or drop one"
    return None


@_rule("data.held_out", "data.train", "data.sources")
def _held_out_is_held_out(held_out: str | None, train: str | None, sources: list[SourcePath]) -> str | None:
    paths = [train, *(source.path for source in sources)]
    for path in paths:
        if held_out is not None and path is not None and _same_place(held_out, path):
            key = "data.train" if path is train else "a source"
            return f"the same file as {key} ({path!r}), so it would measure memory; give other text, or null"
    return None


@_rule("data.prepared", "training.output_dir")
def _prepared_data_is_kept_apart(prepared: str | None, output_dir: str) -> str | None:
    if prepared is not None and _same_place(prepared, output_dir):
        return f"{prepared!r} is training.output_dir; give the prepared data a directory of its own"
    return None


@_rule("data.chunk_merging", "method")
def _merging_has_chunks(chunk_merging: str, method: str) -> str | None:
    if chunk_merging != "none" and method not in ("calm", "tide_cross"):
        return (
            f"{chunk_merging!r} merges the chunks of two tokenizers, which method {method} has not; "
            "leave chunk_merging out, or set method: calm or tide_cross"
        )
    return None


@_rule("training.output_dir", "teacher.path")
def _teacher_is_not_overwritten(output_dir: str, path: str) -> str | None:
    return _overwrites(output_dir, path, "teacher")


@_rule("training.output_dir", "student.path")
def _student_is_not_overwritten(output_dir: str, path: str) -> str | None:
    return _overwrites(output_dir, path, "student")


def _overwrites(output_dir: str, path: str, role: str) -> str | None:
    if _same_place(output_dir, path):
        return (
            f"{output_dir!r} is {role}.path, whose weights would be written over; give a directory of its own"
        )
    return None


def _same_place(one: str, other: str) -> bool:
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))

"""Rules between the fields of a recipe, each with its remedy. Known before any model or data is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from tide.config.problem import shown
from tide.config.strict import Rule
from tide.methods import METHODS, names_across_tokenizers

RULES: list[Rule] = []
# What transformers and Jinja give a chat template, or take themselves where one is applied.
TAKEN_NAMES = frozenset(
    {
        *("conversation", "conversations", "messages", "tools", "documents", "chat_template", "tokenize"),
        *("add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask", "return_dict"),
        *("return_tensors", "padding", "truncation", "max_length", "tokenizer_kwargs", "kwargs", "self"),
        *("sanitize_control_tokens", "raise_exception", "strftime_now"),
        *("namespace", "range", "dict", "lipsum", "cycler", "joiner", "loop", "caller", "varargs"),
    }
)
# The ends of `SUFFIXES` in tide.data.sources, which needs NumPy: a recipe is read in a moment without it.
FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".gz", ".parquet", ".arrow", ".feather")


class SourcePlace(Protocol):
    """What a rule reads of a source."""

    path: str
    split: str


def _rule(*keys: str) -> Callable[[Callable[..., str | None]], Callable[..., str | None]]:
    """Register a rule over the values of these keys; a problem is reported at the first of them."""

    def register(broken: Callable[..., str | None]) -> Callable[..., str | None]:
        RULES.append(Rule(keys, broken))
        return broken

    return register


@_rule("teacher", "method")
def _method_has_its_teacher(teacher: object, method: str) -> str | None:
    if teacher is None and METHODS[method].has_teacher:
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


@_rule("student.template_arguments")
def _student_s_template_takes_the_names(template_arguments: Iterable[str]) -> str | None:
    return _names_of_variables(template_arguments)


@_rule("teacher.template_arguments")
def _teacher_s_template_takes_the_names(template_arguments: Iterable[str]) -> str | None:
    return _names_of_variables(template_arguments)


def _names_of_variables(template_arguments: Iterable[str]) -> str | None:
    for name in template_arguments:
        if not name.isidentifier():
            return (
                f"{shown(name)} is no name of a template's variable; write letters, digits and _, such as "
                "enable_thinking"
            )
        if name in TAKEN_NAMES:
            return (
                f"{shown(name)} is set where the template is applied, not by a recipe; leave it out, and "
                "give variables of the template's own, such as enable_thinking"
            )
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
    if student_masking == "chunks" and not METHODS[method].across_tokenizers:
        return (
            f"'chunks' needs the chunks of two tokenizers, which method {method} has not; "
            f"leave student_masking out, or set method: {names_across_tokenizers()}"
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
    if ce_weight > 0 or (METHODS[method].has_teacher and distill_weight > 0):
        return None
    if not METHODS[method].has_teacher:
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


@_rule("data.held_out", "data.held_out_split", "data.train", "data.sources")
def _held_out_is_held_out(
    held_out: str | None, held_out_split: str, train: str | None, sources: list[SourcePlace]
) -> str | None:
    places = [(source.path, source.split) for source in sources]
    if train is not None:
        places.insert(0, (train, "train"))
    for path, split in places:
        if held_out is None or not _same_place(held_out, path):
            continue
        key = "data.train" if path is train else "a source"
        if not _has_splits(path):
            return f"the same file as {key} ({path!r}), so it would measure memory; give other text, or null"
        if split == held_out_split:
            return (
                f"split {split!r} of {path!r}, as {key}, so it would measure memory; give another "
                "held_out_split or other text, or null"
            )
    return None


def _has_splits(path: str) -> bool:
    """Whether a directory, or what can only be on the hub. Files and globs are read whole."""
    there = os.path.expanduser(path)
    return os.path.isdir(there) or not (os.path.exists(there) or path.lower().endswith(FILE_SUFFIXES))


@_rule("data.prepared", "training.output_dir")
def _prepared_data_is_kept_apart(prepared: str | None, output_dir: str) -> str | None:
    if prepared is not None and _same_place(prepared, output_dir):
        return f"{prepared!r} is training.output_dir; give the prepared data a directory of its own"
    return None


@_rule("data.chunk_merging", "method")
def _merging_has_chunks(chunk_merging: str, method: str) -> str | None:
    if chunk_merging != "none" and not METHODS[method].across_tokenizers:
        return (
            f"{chunk_merging!r} merges the chunks of two tokenizers, which method {method} has not; "
            f"leave chunk_merging out, or set method: {names_across_tokenizers()}"
        )
    return None


@_rule("data.chunk_merging", "data.chunk_max_bytes", "data.chunk_max_tokens")
def _limits_are_of_merged_chunks(
    chunk_merging: str, chunk_max_bytes: int | None, chunk_max_tokens: int | None
) -> str | None:
    # As `tide.alignment.merging.check_merging` has it.
    limits = {"chunk_max_bytes": chunk_max_bytes, "chunk_max_tokens": chunk_max_tokens}
    given = [f"data.{name} {limit}" for name, limit in limits.items() if limit is not None]
    if chunk_merging == "none" and given:
        return (
            f"'none' merges no chunks, and {' and '.join(given)} would limit merged ones; set chunk_merging: "
            "words or length, or leave the limit out"
        )
    if chunk_merging == "length" and not given:
        return (
            "'length' merges chunks up to a limit, and there is none; give data.chunk_max_tokens or "
            "data.chunk_max_bytes, or set chunk_merging: words"
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

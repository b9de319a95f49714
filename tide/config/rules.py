"""Rules between the values of a recipe, each with its remedy, checked before a model or data is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tide.config.problem import shown
from tide.config.reading import Rule
from tide.methods import METHODS, names_across_tokenizers

if TYPE_CHECKING:
    from tide.config.sections import Recipe

RULES: list[Rule] = []
# Names that transformers and Jinja pass to a chat template, or take where one is applied.
TAKEN_NAMES = frozenset(
    {
        *("conversation", "conversations", "messages", "tools", "documents", "chat_template", "tokenize"),
        *("add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask", "return_dict"),
        *("return_tensors", "padding", "truncation", "max_length", "tokenizer_kwargs", "kwargs", "self"),
        *("sanitize_control_tokens", "raise_exception", "strftime_now"),
        *("namespace", "range", "dict", "lipsum", "cycler", "joiner", "loop", "caller", "varargs"),
    }
)
# The ends of `SUFFIXES` in tide.data.sources, which imports NumPy: a recipe is read without it.
FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".gz", ".parquet", ".arrow", ".feather")


def _rule(key: str) -> Callable[[Callable[[Recipe], str | None]], Callable[[Recipe], str | None]]:
    """Register a rule whose problem is reported at `key`."""

    def register(broken: Callable[[Recipe], str | None]) -> Callable[[Recipe], str | None]:
        RULES.append(Rule(key, broken))
        return broken

    return register


@_rule("teacher")
def _method_has_its_teacher(recipe: Recipe) -> str | None:
    if recipe.teacher is None and METHODS[recipe.method].has_teacher:
        return f"method {recipe.method} needs a teacher; add teacher: with its path, or set method: none"
    return None


@_rule("student.dtype")
def _student_trains_in_fp32(recipe: Recipe) -> str | None:
    if recipe.student.dtype != "float32":
        # At a learning rate of 5e-5, most updates are smaller than half a bf16 step of the weight and vanish.
        return (
            f"the student is trained on float32 master weights, got {recipe.student.dtype}; leave dtype out, "
            "and set training.precision: bf16 for bf16 arithmetic"
        )
    return None


@_rule("student.trainable")
def _student_trains(recipe: Recipe) -> str | None:
    if recipe.student.trainable is False:
        return "the student is the model that trains, got false; leave trainable out"
    return None


@_rule("teacher.trainable")
def _teacher_is_frozen(recipe: Recipe) -> str | None:
    if recipe.teacher is not None and recipe.teacher.trainable:
        return "the teacher is frozen, got true; leave trainable out"
    return None


@_rule("student.template_arguments")
def _student_template_takes_the_names(recipe: Recipe) -> str | None:
    return _taken_name(recipe.student.template_arguments)


@_rule("teacher.template_arguments")
def _teacher_template_takes_the_names(recipe: Recipe) -> str | None:
    return None if recipe.teacher is None else _taken_name(recipe.teacher.template_arguments)


def _taken_name(template_arguments: Iterable[str]) -> str | None:
    for name in template_arguments:
        if not name.isidentifier():
            return f"{shown(name)} cannot name a variable; use letters, digits and _, as in enable_thinking"
        if name in TAKEN_NAMES:
            return (
                f"{shown(name)} is set where the template is applied; leave it out, and give the template's "
                "own variables, such as enable_thinking"
            )
    return None


@_rule("data.max_length")
def _blocks_fill_the_student(recipe: Recipe) -> str | None:
    return _unfilled(recipe.data.max_length, recipe.masking.block_size)


@_rule("data.teacher_max_length")
def _blocks_fill_the_teacher(recipe: Recipe) -> str | None:
    length = recipe.data.teacher_max_length
    return None if length is None else _unfilled(length, recipe.masking.block_size)


def _unfilled(length: int, block_size: int) -> str | None:
    if length % block_size == 0:
        return None
    below = length - length % block_size
    choices = f"{below} or {below + block_size}" if below else f"{block_size}"
    return (
        f"masking.block_size {block_size} does not divide the length {length}; "
        f"set the length to {choices}, or the block size to a divisor"
    )


@_rule("masking.student_masking")
def _chunks_come_from_two_tokenizers(recipe: Recipe) -> str | None:
    return _needs_chunks(recipe.method, "student_masking", recipe.masking.student_masking, "tokens")


@_rule("data.chunk_merging")
def _merging_has_chunks(recipe: Recipe) -> str | None:
    return _needs_chunks(recipe.method, "chunk_merging", recipe.data.chunk_merging, "none")


def _needs_chunks(method: str, key: str, value: str, without: str) -> str | None:
    if value == without or METHODS[method].across_tokenizers:
        return None
    return (
        f"{value!r} needs the chunks of two tokenizers, and method {method} has none; leave {key} out, or "
        f"set method: {names_across_tokenizers()}"
    )


@_rule("data.chunk_merging")
def _limits_are_of_merged_chunks(recipe: Recipe) -> str | None:
    # As `tide.alignment.merging.check_merging` has it.
    data = recipe.data
    limits = {"chunk_max_bytes": data.chunk_max_bytes, "chunk_max_tokens": data.chunk_max_tokens}
    given = [f"data.{name} {limit}" for name, limit in limits.items() if limit is not None]
    if data.chunk_merging == "none" and given:
        return (
            f"'none' merges no chunks, and {' and '.join(given)} would limit merged ones; set chunk_merging: "
            "words or length, or leave the limit out"
        )
    if data.chunk_merging == "length" and not given:
        return (
            "'length' merges chunks up to a limit; give data.chunk_max_tokens or data.chunk_max_bytes, or "
            "set chunk_merging: words"
        )
    return None


@_rule("objective.lambda_init")
def _lambda_grows(recipe: Recipe) -> str | None:
    objective = recipe.objective
    if objective.lambda_init > objective.lambda_max:
        return (
            f"{objective.lambda_init:g} is above objective.lambda_max {objective.lambda_max:g}, but lambda "
            "grows in training; lower lambda_init or raise lambda_max"
        )
    return None


@_rule("objective.distill_weight")
def _something_is_learned(recipe: Recipe) -> str | None:
    has_teacher = METHODS[recipe.method].has_teacher
    if recipe.objective.ce_weight > 0 or (has_teacher and recipe.objective.distill_weight > 0):
        return None
    if not has_teacher:
        return (
            "method none learns from cross-entropy alone, and objective.ce_weight is 0; set ce_weight above 0"
        )
    return "this and objective.ce_weight are both 0, so nothing would be learned; set one of them above 0"


@_rule("data")
def _there_is_data(recipe: Recipe) -> str | None:
    data = recipe.data
    if data.train is None and not data.sources and data.prepared is None:
        return (
            "nothing to train on; give data.train, or data.sources as a list of path: lines, or "
            "data.prepared alone to read existing shards"
        )
    if data.train is not None and data.sources:
        return (
            f"both train ({data.train!r}) and {len(data.sources)} sources; add train to the sources, or drop "
            "one"
        )
    return None


@_rule("data.held_out")
def _held_out_is_held_out(recipe: Recipe) -> str | None:
    data = recipe.data
    if data.held_out is None:
        return None
    for source in data.mixture:
        if not _same_place(data.held_out, source.path):
            continue
        key = "data.train" if source.path == data.train else "a source"
        if not _has_splits(source.path):
            return (
                f"the same file as {key} ({source.path!r}), so it would measure memory; give other text, or "
                "null"
            )
        if source.split == data.held_out_split:
            return (
                f"split {source.split!r} of {source.path!r}, as {key}, so it would measure memory; give "
                "another held_out_split or other text, or null"
            )
    return None


def _has_splits(path: str) -> bool:
    """True for a directory, or a name on the hub; files and globs are read whole."""
    local = os.path.expanduser(path)
    return os.path.isdir(local) or not (os.path.exists(local) or path.lower().endswith(FILE_SUFFIXES))


@_rule("data.prepared")
def _prepared_data_has_its_own_directory(recipe: Recipe) -> str | None:
    prepared = recipe.data.prepared
    if prepared is not None and _same_place(prepared, recipe.training.output_dir):
        return f"{prepared!r} is training.output_dir; give the prepared data its own directory"
    return None


@_rule("training.output_dir")
def _teacher_is_not_overwritten(recipe: Recipe) -> str | None:
    return None if recipe.teacher is None else _overwrites(recipe, "teacher", recipe.teacher.path)


@_rule("training.output_dir")
def _student_is_not_overwritten(recipe: Recipe) -> str | None:
    return _overwrites(recipe, "student", recipe.student.path)


def _overwrites(recipe: Recipe, role: str, path: str) -> str | None:
    output_dir = recipe.training.output_dir
    if _same_place(output_dir, path):
        return f"{output_dir!r} is {role}.path, whose weights would be overwritten; name another directory"
    return None


def _same_place(one: str, other: str) -> bool:
    return os.path.realpath(os.path.expanduser(one)) == os.path.realpath(os.path.expanduser(other))

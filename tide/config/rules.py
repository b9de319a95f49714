"""Rules between the values of a recipe, each with its remedy, checked before a model or data is opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from tide.config.problem import shown
from tide.methods import METHODS, names_across_tokenizers

if TYPE_CHECKING:
    from tide.config.sections import ModelConfig, Sections

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
# Ends of files of rows. They stand here because a recipe is read without NumPy, which tide.data imports.
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
PARQUET_SUFFIXES, ARROW_SUFFIXES = (".parquet",), (".arrow", ".feather")
FILE_SUFFIXES = (*JSON_SUFFIXES, *PARQUET_SUFFIXES, *ARROW_SUFFIXES)


# A rule yields the problems of its key; it stops by an AttributeError at a value that is wrong itself.
RULES: list[tuple[str, Callable[[Sections], Iterator[str]]]] = []

_Problems = TypeVar("_Problems", bound=Callable[..., Iterator[str]])


def _rule(key: str, *arguments: str) -> Callable[[_Problems], _Problems]:
    def add(problems: _Problems) -> _Problems:
        RULES.append((key, lambda recipe: problems(recipe, *arguments)))
        return problems

    return add


@_rule("teacher")
def _(recipe: Sections) -> Iterator[str]:
    if recipe.teacher is None and METHODS[recipe.method].has_teacher:
        yield f"method {recipe.method} needs a teacher; add teacher: with its path, or set method: none"


@_rule("student.dtype")
def _(recipe: Sections) -> Iterator[str]:
    # At a learning rate of 5e-5, most updates are smaller than half a bf16 step of the weight and vanish.
    if recipe.student.dtype != "float32":
        yield (
            f"the student is trained on float32 master weights, got {recipe.student.dtype}; leave dtype out, "
            "and set training.precision: bf16 for bf16 arithmetic"
        )


@_rule("student.trainable")
def _(recipe: Sections) -> Iterator[str]:
    if recipe.student.trainable is False:
        yield "the student is the model that trains, got false; leave trainable out"


@_rule("student.quantization", "quantization")
@_rule("student.device", "device")
def _(recipe: Sections, key: str) -> Iterator[str]:
    if (value := getattr(recipe.student, key)) is not None:
        yield f"the student trains whole, where accelerate puts it, got {value}; leave {key} out"


@_rule("student.contract")
def _(recipe: Sections) -> Iterator[str]:
    if recipe.student.contract != "trained":
        yield (
            f"a student is trained by its own contract, got {recipe.student.contract}; leave contract out, "
            "or give student.contract_values"
        )


@_rule("teacher.trainable")
def _(recipe: Sections) -> Iterator[str]:
    if recipe.teacher is not None and recipe.teacher.trainable:
        yield "the teacher is frozen, got true; leave trainable out"


@_rule("student.template_arguments", "student")
@_rule("teacher.template_arguments", "teacher")
def _(recipe: Sections, role: str) -> Iterator[str]:
    model: ModelConfig | None = getattr(recipe, role)
    for name in model.template_arguments if model is not None else ():
        if not name.isidentifier():
            yield f"{shown(name)} cannot name a variable; use letters, digits and _, as in enable_thinking"
        elif name in TAKEN_NAMES:
            yield (
                f"{shown(name)} is set where the template is applied; leave it out, and give the template's "
                "own variables, such as enable_thinking"
            )


@_rule("data.max_length", "max_length")
@_rule("data.teacher_max_length", "teacher_max_length")
def _(recipe: Sections, name: str) -> Iterator[str]:
    length: int | None = getattr(recipe.data, name)
    block_size = recipe.masking.block_size
    if length is not None and length % block_size:
        below = length - length % block_size
        choices = f"{below} or {below + block_size}" if below else f"{block_size}"
        yield (
            f"masking.block_size {block_size} does not divide the length {length}; "
            f"set the length to {choices}, or the block size to a divisor"
        )


@_rule("masking.student_masking", "masking", "student_masking", "tokens")
@_rule("data.chunk_merging", "data", "chunk_merging", "none")
def _(recipe: Sections, section: str, key: str, without_chunks: str) -> Iterator[str]:
    value = getattr(getattr(recipe, section), key)
    if value != without_chunks and not METHODS[recipe.method].across_tokenizers:
        yield (
            f"{value!r} needs the chunks of two tokenizers, and method {recipe.method} has none; leave {key} "
            f"out, or set method: {names_across_tokenizers()}"
        )


@_rule("data.chunk_merging")
def _(recipe: Sections) -> Iterator[str]:
    # As `tide.alignment.merging.check_merging` has it.
    data = recipe.data
    limits = {"chunk_max_bytes": data.chunk_max_bytes, "chunk_max_tokens": data.chunk_max_tokens}
    given = [f"data.{name} {limit}" for name, limit in limits.items() if limit is not None]
    if data.chunk_merging == "none" and given:
        yield (
            f"'none' merges no chunks, and {' and '.join(given)} would limit merged ones; set chunk_merging: "
            "words or length, or leave the limit out"
        )
    if data.chunk_merging == "length" and not given:
        yield (
            "'length' merges chunks up to a limit; give data.chunk_max_tokens or data.chunk_max_bytes, or "
            "set chunk_merging: words"
        )


@_rule("objective.lambda_init")
def _(recipe: Sections) -> Iterator[str]:
    start, end = recipe.objective.lambda_init, recipe.objective.lambda_max
    if start > end:
        yield (
            f"{start:g} is above objective.lambda_max {end:g}, but lambda grows in training; lower "
            "lambda_init or raise lambda_max"
        )


@_rule("objective.distill_weight")
def _(recipe: Sections) -> Iterator[str]:
    if recipe.objective.ce_weight > 0:
        return
    if not METHODS[recipe.method].has_teacher:
        yield (
            "method none learns from cross-entropy alone, and objective.ce_weight is 0; set ce_weight above 0"
        )
    elif recipe.objective.distill_weight == 0:
        yield "this and objective.ce_weight are both 0, so nothing would be learned; set one of them above 0"


@_rule("data")
def _(recipe: Sections) -> Iterator[str]:
    data = recipe.data
    if data.train is None and not data.sources and data.prepared is None:
        yield (
            "nothing to train on; give data.train, or data.sources as a list of path: lines, or "
            "data.prepared alone to read existing shards"
        )
    if data.train is not None and data.sources:
        yield (
            f"both train ({data.train!r}) and {len(data.sources)} sources; add train to the sources, or drop "
            "one"
        )


@_rule("training.eval_steps")
def _(recipe: Sections) -> Iterator[str]:
    if recipe.training.eval_steps is not None and recipe.data.held_out is None:
        yield f"got {recipe.training.eval_steps}, and there is no data.held_out to evaluate; give it, or null"


@_rule("data.held_out")
def _(recipe: Sections) -> Iterator[str]:
    data = recipe.data
    for source in data.mixture:
        if data.held_out is None or not _same_place(data.held_out, source.path):
            continue
        key = "data.train" if source.path == data.train else "a source"
        if not _has_splits(source.path):
            yield (
                f"the same file as {key} ({source.path!r}), so it would measure memory; give other text, or "
                "null"
            )
        elif source.split == data.held_out_split:
            yield (
                f"split {source.split!r} of {source.path!r}, as {key}, so it would measure memory; give "
                "another held_out_split or other text, or null"
            )


def _has_splits(path: str) -> bool:
    """True for a directory, or a name on the hub; files and globs are read whole."""
    return os.path.isdir(path) or not (os.path.exists(path) or path.lower().endswith(FILE_SUFFIXES))


@_rule("data.prepared")
def _(recipe: Sections) -> Iterator[str]:
    prepared = recipe.data.prepared
    if prepared is not None and _same_place(prepared, recipe.training.output_dir):
        yield f"{prepared!r} is training.output_dir; give the prepared data its own directory"


@_rule("training.max_steps")
def _(recipe: Sections) -> Iterator[str]:
    steps, epochs = recipe.training.max_steps, recipe.training.num_train_epochs
    if steps is None and epochs is None:
        yield "required key is missing; add max_steps or num_train_epochs under training"
    if steps is not None and epochs is not None:
        yield f"both {steps} and training.num_train_epochs {epochs:g} end the training; set one to null"


@_rule("training.output_dir", "teacher")
@_rule("training.output_dir", "student")
def _(recipe: Sections, role: str) -> Iterator[str]:
    output_dir = recipe.training.output_dir
    model: ModelConfig | None = getattr(recipe, role)
    if model is not None and _same_place(output_dir, model.path):
        yield f"{output_dir!r} is {role}.path, whose weights would be overwritten; name another directory"


def _same_place(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)

"""One stretch of a mixture: from raw rows to examples, counts and what is set aside."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from tide.data import Counts, Rejected, Row, read_row
from tide.methods import METHODS
from tide.preparation.examples import NOTHING_TO_LEARN, ExampleBuilder, Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tide.batch import Example
    from tide.config import Recipe
    from tide.data import Raw
    from tide.preparation.tokenizers import Tokenizers

MAX_DETAIL = 300  # characters of one row's fault in a message


class Part(NamedTuple):
    """Examples of some rows, in their order; rejects by the position of their row."""

    examples: list[Example]
    rejects: dict[int, Rejected]
    counts: Counts


def builder_of(recipe: Recipe, tokenizers: Tokenizers) -> ExampleBuilder:
    """Examples as the recipe's method reads them.

    Args:
        recipe: its lengths, block size and filling.
        tokenizers: of its method.
    """
    across = pairing_of(recipe) == "cross"
    return ExampleBuilder(
        _layout(recipe),
        tokenizers.student,
        tokenizers.teacher if across else None,
        shared=pairing_of(recipe) == "same",
        template_arguments=template_arguments(recipe),
    )


def student_builder(recipe: Recipe, tokenizers: Tokenizers) -> ExampleBuilder:
    """The student's side alone, for evaluation.

    Args:
        recipe: its lengths, block size and filling.
        tokenizers: the student's is used.
    """
    return ExampleBuilder(_layout(recipe), tokenizers.student, template_arguments=template_arguments(recipe))


def template_arguments(recipe: Recipe) -> dict[str, dict[str, str | int | float | bool]]:
    """Variables of the chat templates that are applied, by role."""
    models = {"student": recipe.student}
    if pairing_of(recipe) == "cross" and recipe.teacher is not None:
        models["teacher"] = recipe.teacher
    return {role: model.template_arguments for role, model in models.items()}


def _layout(recipe: Recipe) -> Layout:
    return Layout(
        block_size=recipe.masking.block_size,
        max_length=recipe.data.max_length,
        teacher_max_length=recipe.data.teacher_length,
        end_fill=recipe.data.end_fill,
        chunk_merging=recipe.data.chunk_merging,
        chunk_max_bytes=recipe.data.chunk_max_bytes,
        chunk_max_tokens=recipe.data.chunk_max_tokens,
    )


def pairing_of(recipe: Recipe) -> str:
    """The teacher's side: "none", the "same" tokens as the student's, or "cross" tokenizers."""
    return {"none": "none", "shared": "same", "any": "cross"}[METHODS[recipe.method].teacher]


def build_part(raw_rows: Sequence[Raw | Rejected], build: ExampleBuilder) -> Part:
    """Examples of rows as a source gives them.

    Args:
        raw_rows: mappings, or what could not be read as one.
        build: makes the examples.
    """
    rejects: dict[int, Rejected] = {}
    rows: dict[int, Row] = {}
    for at, raw in enumerate(raw_rows):
        row = read_row(raw)
        if isinstance(row, Rejected):
            rejects[at] = row
        else:
            rows[at] = row
    examples = []
    num_cut = 0
    for at, built in zip(rows, build(list(rows.values())), strict=True):
        if isinstance(built, Rejected):
            rejects[at] = built
        else:
            examples.append(built.example)
            num_cut += built.cut
    counts = _counted(len(raw_rows), examples, num_cut, rejects, across=build.teacher is not None)
    return Part(examples, dict(sorted(rejects.items())), counts)


def _counted(
    num_rows: int, examples: list[Example], num_cut: int, rejects: dict[int, Rejected], *, across: bool
) -> Counts:
    return Counts(
        rows=num_rows,
        kept=len(examples),
        cut=num_cut,
        student_tokens=sum(len(example.student.token_ids) for example in examples),
        teacher_tokens=sum(len(example.teacher.token_ids) for example in examples if example.teacher),
        loss_tokens=sum(int(example.student.loss_mask.sum()) for example in examples),
        chunks=sum(example.num_chunks for example in examples),
        without_chunks=sum(across and not example.num_chunks for example in examples),
        highest_id=max((int(example.student.token_ids.max()) for example in examples), default=-1),
        rejected=dict(sorted(Counter(reject.reason for reject in rejects.values()).items())),
    )


def nothing_kept(counts: Counts, first: tuple[str, Rejected], *, rejects: str | None = None) -> str:
    """The error of data of which no row is left, in a line.

    Args:
        counts: of what was read.
        first: place of the first row, and why it was dropped.
        rejects: files that say this of every row, where some were written.
    """
    where, (reason, detail) = first
    detail = " ".join(detail.removeprefix(f"{where}: ").split())  # a template's error has many lines
    if len(detail) > MAX_DETAIL:
        detail = detail[:MAX_DETAIL] + "..."
    reasons = ", ".join(f"{of_rows} {number:,}" for of_rows, number in counts.reasons)
    others = f" What is wrong with each is in {rejects!r}." if rejects else ""
    remedy = ", or raise data.max_length" if NOTHING_TO_LEARN in counts.rejected else ""
    return (
        f"prepare: none of {counts.rows:,} rows makes an example ({reasons}). The first, {where}: "
        f"{reason}{detail and ': '}{detail}.{others} Correct the data{remedy}."
    )

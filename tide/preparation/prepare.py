"""Recipe -> shards on disk: what `tide prepare` runs.

sources -> mixture -> parts, each made by one process -> manifest
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tide.data import (
    MANIFEST_FILE,
    PLAN_FILE,
    BadRow,
    Conversation,
    Counts,
    Manifest,
    Mixture,
    PartReport,
    Plan,
    Shard,
    Source,
    SourceCounts,
    check_chat_template,
    check_template_arguments,
    file_hash,
    mix,
    open_source,
    read_row,
    rows_with_answer,
    tokenizer_fingerprint,
    versions_here,
    write_json,
    write_shard,
    write_whole,
)
from tide.preparation.directory import clear_for, finished, keeps_parts, made_parts, part_name
from tide.preparation.parts import build_part, builder_of, pairing_of, template_arguments
from tide.preparation.tokenizers import load_tokenizers

if TYPE_CHECKING:
    from jaxtyping import Int32

    from tide.config import Recipe, SourceConfig
    from tide.preparation.examples import ExampleBuilder
    from tide.preparation.tokenizers import Tokenizers

SHARD_ROWS = 4096


@dataclass
class Preparation:
    """A recipe's data and what reads it: everything that a part is made from.

    Attributes:
        recipe: what to prepare, and where to.
        sources: in the recipe's order.
        mixture: the order of their rows.
        shard_rows: rows of the mixture a part.
    """

    recipe: Recipe
    sources: list[Source]
    mixture: Mixture
    shard_rows: int = SHARD_ROWS

    @classmethod
    def of(
        cls, recipe: Recipe, *, tokenizers: Tokenizers | None = None, shard_rows: int = SHARD_ROWS
    ) -> Preparation:
        """Opens the recipe's sources, which may take minutes, and before them its tokenizers.

        Args:
            recipe: what to prepare.
            tokenizers: of its method, where they are loaded.
            shard_rows: rows of the mixture a part.
        Raises:
            ValueError: a tokenizer is unfit; the recipe names no source; one is not there, holds no rows, or
                has no row in the mixture.
        """
        tokenizers = load_tokenizers(recipe) if tokenizers is None else tokenizers
        given = recipe.data.mixture
        if not given:
            raise ValueError(
                "prepare: the recipe names neither data.train nor data.sources, so there are no rows to "
                "prepare. Name one of them; without, training reads what data.prepared holds."
            )
        sources = [_opened(source) for source in given]
        sizes, weights = [len(source) for source in sources], [s.weight for s in given]
        in_file_order = weights == [1.0]
        order = mix(
            sizes, weights, seed=recipe.data.mix_seed, total=recipe.data.num_rows, shuffle=not in_file_order
        )
        taken = np.bincount(order.source, minlength=len(sources))
        if not taken.all():
            at = int(taken.argmin())
            raise ValueError(
                f"prepare: source {at} ({given[at].path!r}, {sizes[at]:,} rows at weight {weights[at]:g}) "
                f"comes to none of the mixture's {len(order):,} rows. Raise data.num_rows or its weight, or "
                "leave it out."
            )
        preparation = cls(recipe, sources, order, shard_rows)
        preparation.tokenizers = tokenizers
        return preparation

    @cached_property
    def tokenizers(self) -> Tokenizers:
        """Loaded in the process that asks."""
        return load_tokenizers(self.recipe)

    @cached_property
    def builder(self) -> ExampleBuilder:
        """Made in the process that asks."""
        return builder_of(self.recipe, self.tokenizers)

    def check_templates(self) -> None:
        """Of the tokenizers that read conversations, where a source begins with one; and all arguments.

        Raises:
            ValueError: one has no chat template, it does not work, or never reads an argument.
        """
        firsts = [read_row(source.rows([0])[0]) for source in self.sources]
        has_conversations = any(isinstance(row, Conversation) for row in firsts)
        tokenizers = self.tokenizers.by_role()
        for role, arguments in template_arguments(self.recipe).items():
            tokenizer = tokenizers[role]
            if has_conversations:
                check_chat_template(tokenizer, arguments)
            if has_conversations or (arguments and tokenizer.chat_template):
                check_template_arguments(
                    tokenizer.get_chat_template(),
                    arguments,
                    tokenizer.special_tokens_map,
                    key=f"{role}.template_arguments",
                )

    def rows_of(self, number: int) -> int:
        """How many rows of the mixture a part is made from."""
        return min(self.shard_rows, len(self.mixture) - number * self.shard_rows)

    def plan(self) -> Plan:
        """Everything that the shards follow from. Reads the sources once."""
        data = self.recipe.data
        return Plan(
            sides="both" if pairing_of(self.recipe) == "cross" else "student",
            sources=[
                {**asdict(given), "rows": len(source), "sha256": _content_hash(source)}
                for given, source in zip(data.mixture, self.sources, strict=True)
            ],
            tokenizers=fingerprints(self.recipe, self.tokenizers),
            options=layout_options(self.recipe) | mixing_options(self.recipe),
            shard_rows=self.shard_rows,
            versions=versions_here(),
        )

    def write_part(self, number: int, directory: Path) -> Counts:
        """One shard, what was set aside beside it, and its report, which is written last."""
        start = number * self.shard_rows
        raw = self.mixture.read(self.sources, start, start + self.shard_rows)
        part = build_part(raw, self.builder)
        name = part_name(number)
        write_shard(directory / f"{name}.arrow", part.examples)
        lines = []
        for at, reject in part.rejects.items():
            source, row = self.mixture.source[start + at], int(self.mixture.row[start + at])
            where = self.sources[source].where(row)
            value = None if isinstance(raw[at], BadRow) else raw[at]  # a BadRow is no more than its detail
            lines.append({"where": where, "reason": reject.reason, "detail": reject.detail, "row": value})
        rejects = directory / f"{name}.rejects.jsonl"
        if lines:
            write_whole(rejects, "".join(json.dumps(line, default=str) + "\n" for line in lines))
        else:
            rejects.unlink(missing_ok=True)
        shard = Shard(f"{name}.arrow", len(part.examples), file_hash(directory / f"{name}.arrow"))
        places = self.mixture.source[start : start + self.shard_rows]
        report = PartReport(part.counts, shard, self._by_source(places, list(part.rejects)))
        write_json(directory / f"{name}.json", asdict(report))
        return part.counts

    def _by_source(self, places: Int32[np.ndarray, " n"], dropped: list[int]) -> list[SourceCounts]:
        """Counts of every source: of the sources of some places, and of those of them that were dropped."""
        read = np.bincount(places, minlength=len(self.sources))
        lost = np.bincount(places[np.array(dropped, dtype=np.int64)], minlength=len(self.sources))
        return [
            SourceCounts(rows, rows - without, without)
            for rows, without in zip(read.tolist(), lost.tolist(), strict=True)
        ]


def prepare(
    recipe: Recipe,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    shard_rows: int = SHARD_ROWS,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Writes the recipe's examples to `data.prepared`, or finishes what an interrupted call began.

    The files are the same bytes for any number of workers, and whether or not it was interrupted.

    Args:
        recipe: with `data.prepared`.
        workers: processes; one per processor that this one may use when None. One works in this process.
        overwrite: replace what another recipe prepared there.
        progress: show a bar on stderr.
        shard_rows: rows of the mixture a shard; a process has one shard at a time in memory.
        say: told, in a line, whether all or some of it was there before.
    Returns:
        The manifest, as it is on disk.
    Raises:
        ValueError: there is no `data.prepared`, a source or tokenizer is unfit, or the directory holds
            something else, or a part of it that other versions made; every row was dropped.
    """
    if recipe.data.prepared is None:
        raise ValueError("prepare: data.prepared says where the shards go, and is null. Name a directory.")
    directory = Path(recipe.data.prepared).expanduser()
    preparation = Preparation.of(recipe, shard_rows=shard_rows)
    plan = preparation.plan()
    clear_for(directory, plan, overwrite=overwrite)
    numbers = range(-(-len(preparation.mixture) // shard_rows))
    reports = made_parts(directory, numbers)
    if len(reports) == len(numbers) and (manifest := finished(directory, plan, reports)) is not None:
        say(f"{directory} was already prepared; nothing is made again")
        return manifest
    if reports and not keeps_parts(directory, plan, overwrite=overwrite):
        reports = {}
    if reports:
        say(f"{directory} holds {len(reports)} of {len(numbers)} shards already; going on")
    missing = [number for number in numbers if number not in reports]
    # Made here first: a tokenizer that cannot be aligned is one error, before any process starts.
    assert preparation.builder is not None
    preparation.check_templates()
    directory.mkdir(parents=True, exist_ok=True)
    (directory / MANIFEST_FILE).unlink(missing_ok=True)  # of shards that are torn
    write_json(directory / PLAN_FILE, asdict(plan))
    workers = min(len(missing), _num_processors() if workers is None else workers)
    with _bar(shown=progress) as bar:
        task = bar.add_task("rows", total=len(preparation.mixture))
        bar.advance(task, len(preparation.mixture) - sum(map(preparation.rows_of, missing)))
        for counts in _made(preparation, missing, directory, workers):
            bar.advance(task, counts.rows)
    parts = [PartReport.read(directory / f"{part_name(number)}.json") for number in numbers]
    manifest = Manifest(
        plan,
        Counts.total(part.counts for part in parts),
        [part.shard for part in parts],
        SourceCounts.total(part.sources for part in parts),
    )
    if not manifest.counts.kept:
        raise ValueError(nothing_kept(manifest.counts))
    manifest.write(directory)
    return manifest


def fingerprints(recipe: Recipe, tokenizers: Tokenizers) -> dict[str, str]:
    """Hashes of the tokenizers that the examples are made by, by role.

    Args:
        recipe: its method says whether the teacher has tokens of its own.
        tokenizers: of the recipe.
    """
    made_by = tokenizers.by_role()
    if pairing_of(recipe) != "cross":
        made_by = {"student": tokenizers.student}
    return {role: tokenizer_fingerprint(tokenizer) for role, tokenizer in made_by.items()}


def layout_options(recipe: Recipe) -> dict[str, object]:
    """What decides how an example is cut and filled, by the recipe's names."""
    options: dict[str, object] = {
        "block_size": recipe.masking.block_size,
        "max_length": recipe.data.max_length,
        "end_fill": recipe.data.end_fill,
    }
    options |= {f"{role}_template_arguments": given for role, given in template_arguments(recipe).items()}
    if pairing_of(recipe) == "cross":
        options |= {
            "teacher_max_length": recipe.data.teacher_length,
            "chunk_merging": recipe.data.chunk_merging,
            "chunk_max_bytes": recipe.data.chunk_max_bytes,
            "chunk_max_tokens": recipe.data.chunk_max_tokens,
        }
    return options


def mixing_options(recipe: Recipe) -> dict[str, object]:
    """What decides which rows are taken of the sources, and their order, by the recipe's names."""
    return {"mix_seed": recipe.data.mix_seed, "num_rows": recipe.data.num_rows}


def nothing_kept(counts: Counts) -> str:
    """The error of data of which no row is left.

    Args:
        counts: of what was read.
    """
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in counts.dropped.items())
    return (
        f"prepare: none of {counts.rows:,} rows makes an example ({reasons}). Correct the data, or raise "
        "data.max_length."
    )


def _made(preparation: Preparation, numbers: list[int], directory: Path, workers: int) -> Iterator[Counts]:
    """Counts of the parts, as they are done."""
    if workers <= 1:
        for number in numbers:
            yield preparation.write_part(number, directory)
        return
    # A forked process would inherit the tokenizer library's threads and their locks.
    context = multiprocessing.get_context("spawn")
    fresh = Preparation(preparation.recipe, preparation.sources, preparation.mixture, preparation.shard_rows)
    with ProcessPoolExecutor(workers, context, _begin, (fresh, directory)) as pool:
        try:
            for done in as_completed([pool.submit(_write_part, number) for number in numbers]):
                yield done.result()
        except BaseException:
            # The end of `with` would take back what is cancelled, and wait for every part.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_job: tuple[Preparation, Path] | None = None


def _begin(preparation: Preparation, directory: Path) -> None:
    """What a worker process keeps between parts."""
    global _job
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are what is parallel
    _job = preparation, directory


def _write_part(number: int) -> Counts:
    assert _job is not None
    preparation, directory = _job
    return preparation.write_part(number, directory)


def _opened(given: SourceConfig) -> Source:
    source = open_source(given.path, subset=given.subset, split=given.split)
    return source if given.answer_contains is None else rows_with_answer(source, given.answer_contains)


def _content_hash(source: Source) -> str:
    """Of the files where there are files: decoding every row would take far longer."""
    if not source.files:
        return source.fingerprint()
    hashes = [file_hash(file) for file in source.files]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _num_processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _bar(*, shown: bool) -> Progress:
    return Progress(
        TextColumn("preparing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not shown,
    )

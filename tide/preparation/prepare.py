"""Recipe -> shards on disk: what `tide prepare` runs.

sources -> mixture -> parts, each made by one process -> manifest
"""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tide.data import (
    MANIFEST_FILE,
    PLAN_FILE,
    Counts,
    Manifest,
    PartReport,
    Rejected,
    ScratchFile,
    Shard,
    SourceCounts,
    file_hash,
    write_json,
    write_shard,
    write_whole,
)
from tide.preparation.directory import (
    clear_for,
    finished,
    first_reject,
    keeps_parts,
    made_parts,
    part_name,
    rejects_file,
    rejects_in,
)
from tide.preparation.parts import build_part, nothing_kept
from tide.preparation.recipe_data import SHARD_ROWS, Preparation

if TYPE_CHECKING:
    from collections.abc import Generator
    from multiprocessing.synchronize import Event

    from jaxtyping import Int32

    from tide.config import Recipe


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
        say: told, in a line each, whether all or some of it was there before, and of an interruption, that
            shards in work are finished first.
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
        with closing(_made(preparation, missing, directory, workers, say)) as made:
            for counts in made:
                bar.advance(task, counts.rows)
    parts = [PartReport.read(directory / f"{part_name(number)}.json") for number in numbers]
    manifest = Manifest(
        plan,
        Counts.total(part.counts for part in parts),
        [part.shard for part in parts],
        SourceCounts.total(part.sources for part in parts),
    )
    if not manifest.counts.kept:
        first = first_reject(directory)
        raise ValueError(nothing_kept(manifest.counts, first, rejects=rejects_in(directory)))
    manifest.write(directory)
    return manifest


def write_part(preparation: Preparation, number: int, directory: Path) -> Counts:
    """One shard, what was set aside beside it, and its report, which is written last."""
    sources, mixture = preparation.sources, preparation.mixture
    start = number * preparation.shard_rows
    places = slice(start, start + preparation.rows_of(number))
    raw = mixture.read(sources, places.start, places.stop)
    part = build_part(raw, preparation.builder)
    name = part_name(number)
    write_shard(directory / f"{name}.arrow", part.examples)
    lines = []
    for at, reject in part.rejects.items():
        where = mixture.where(sources, start + at)
        value = None if isinstance(raw[at], Rejected) else raw[at]  # Rejected is no more than its detail
        lines.append({"where": where, "reason": reject.reason, "detail": reject.detail, "row": value})
    rejects = rejects_file(directory, name)
    if lines:
        write_whole(rejects, "".join(json.dumps(line, default=str) + "\n" for line in lines))
    else:
        rejects.unlink(missing_ok=True)
    shard = Shard(f"{name}.arrow", len(part.examples), file_hash(directory / f"{name}.arrow"))
    by_source = _by_source(mixture.source[places], list(part.rejects), len(sources))
    report = PartReport(part.counts, shard, by_source)
    write_json(directory / f"{name}.json", asdict(report))
    return part.counts


def _by_source(of_rows: Int32[np.ndarray, " n"], rejected: list[int], num_sources: int) -> list[SourceCounts]:
    """Counts of every source, from the sources of rows and the numbers of those rows that were dropped."""
    read = np.bincount(of_rows, minlength=num_sources)
    lost = np.bincount(of_rows[np.array(rejected, dtype=np.int64)], minlength=num_sources)
    return [
        SourceCounts(rows, rows - without, without)
        for rows, without in zip(read.tolist(), lost.tolist(), strict=True)
    ]


def _made(
    preparation: Preparation,
    numbers: list[int],
    directory: Path,
    workers: int,
    say: Callable[[str], None] = lambda line: None,
) -> Generator[Counts, None, None]:
    """Counts of the parts, as they are done."""
    if workers <= 1:
        for number in numbers:
            yield write_part(preparation, number, directory)
        return
    # A forked process would inherit the tokenizer library's threads and their locks.
    context = multiprocessing.get_context("spawn")
    fresh = Preparation(preparation.recipe, preparation.sources, preparation.mixture, preparation.shard_rows)
    # Sent through a worker's pipe, which is small, it would hold up the next one until this one has imported.
    job = ScratchFile(".pickle")
    job.path.write_bytes(pickle.dumps((fresh, directory)))
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _begin, (job, stop)) as pool:
        try:
            with _children_ignore_interrupts():  # Processes start as parts are submitted.
                parts = [pool.submit(_write_part, number) for number in numbers]
            for done in as_completed(parts):
                counts = done.result()
                assert counts is not None  # Nothing has told the workers to stop.
                yield counts
        except BaseException:
            say("stopping; shards in work are being finished")
            stop.set()
            # The end of `with` would take back what is cancelled, and wait for every part.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


@contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """Processes that start meanwhile ignore SIGINT, from before their first import on.

    What is ignored stays so in a new process; a handler, which is code, does not. Only the main thread may
    set it: of any other, workers ignore SIGINT once they have begun.
    """
    handler = signal.getsignal(signal.SIGINT)
    if handler is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


_job: tuple[Preparation, Path, Event] | None = None


def _begin(job: ScratchFile, stop: Event) -> None:
    """What a worker process keeps between parts."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are what is parallel
    preparation, directory = pickle.loads(job.path.read_bytes())
    _job = preparation, directory, stop


def _write_part(number: int) -> Counts | None:
    """None where the parent has stopped: a part that a process has been handed cannot be cancelled."""
    assert _job is not None
    preparation, directory, stop = _job
    return None if stop.is_set() else write_part(preparation, number, directory)


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

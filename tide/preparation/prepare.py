"""Prepare a recipe's shards on disk: what `tide prepare` runs.

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
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tide.data import Rejected, ScratchFile, file_hash, remove_borrowed, write_shard, write_whole
from tide.disk import one_writer, writing
from tide.preparation.directory import ShardDirectory
from tide.preparation.examples import build_part, no_examples
from tide.preparation.manifest import (
    MANIFEST_FILE,
    PLAN_FILE,
    Counts,
    Manifest,
    PartReport,
    Shard,
    SourceCounts,
    write_record,
)
from tide.preparation.plan import SHARD_ROWS, Preparation

if TYPE_CHECKING:
    from collections.abc import Generator
    from multiprocessing.synchronize import Event

    from tide.config import Recipe


def prepare(
    recipe: Recipe,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    shard_rows: int = SHARD_ROWS,
    log: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Write the recipe's examples to `data.prepared`, or finish what an interrupted call began.

    The files are the same bytes for any number of workers, and whether or not it was interrupted.

    Args:
        recipe: with `data.prepared`.
        workers: processes; None for one per available processor. One works in this process.
        overwrite: replace what another recipe prepared there.
        progress: show a bar on stderr.
        shard_rows: rows of the mixture per shard; a process holds one shard in memory.
        log: called with each status line.
    Returns:
        The manifest, as it is on disk.
    Raises:
        ValueError: `data.prepared` is null, or holds something else, or parts of other versions, or another
            process writes to it; a source or tokenizer cannot be used; every row was rejected.
        OSError: `data.prepared` cannot be written, or a process was killed; what is there is gone on with.
    """
    if recipe.data.prepared is None:
        raise ValueError("prepare: data.prepared says where the shards go, and is null. Name a directory.")
    directory = ShardDirectory(Path(recipe.data.prepared))
    if directory.path.exists() and not directory.path.is_dir():
        raise ValueError(f"prepare: data.prepared {str(directory.path)!r} is a file. Name a directory.")
    with one_writer("prepare", directory.path), writing(directory.path):
        try:
            return _prepared(recipe, directory, workers, overwrite, progress, shard_rows, log)
        finally:
            directory.remove_unfinished()


def _prepared(
    recipe: Recipe,
    directory: ShardDirectory,
    workers: int | None,
    overwrite: bool,
    progress: bool,
    shard_rows: int,
    log: Callable[[str], None],
) -> Manifest:
    preparation = Preparation.of(recipe, shard_rows=shard_rows)
    plan, parts = preparation.plan(), preparation.parts
    directory.claim(plan, overwrite=overwrite)
    reports = directory.reports(parts)
    if len(reports) == len(parts) and (manifest := directory.finished(plan, reports.values())) is not None:
        log(f"{directory.path} was already prepared; nothing is made again")
        return manifest
    if reports and (mismatches := directory.version_mismatches(plan)):
        if not overwrite:
            raise ValueError(
                f"prepare: {str(directory.path)!r} holds parts made by {', '.join(mismatches)}; parts of two "
                "versions are not mixed. Resume with those versions, pass --overwrite to begin again, or "
                "name another data.prepared."
            )
        directory.clear()
        reports = {}
    if reports:
        log(f"{directory.path} holds {len(reports)} of {len(parts)} shards already; resuming")
    missing = [part for part in parts if part not in reports]
    # Made here first: a tokenizer that cannot be aligned is one error, before any process starts.
    assert preparation.builder is not None
    preparation.check_templates()
    (directory.path / MANIFEST_FILE).unlink(missing_ok=True)  # of shards that are torn
    write_record(directory.path / PLAN_FILE, plan)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    columns = TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TextColumn("rows")
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not progress) as bar:
        task = bar.add_task("rows", total=len(preparation.mixture))
        bar.advance(task, sum(len(preparation.places(part)) for part in reports))
        with closing(_made(preparation, missing, directory, min(workers, len(missing)), log)) as made:
            for counts in made:
                bar.advance(task, counts.rows)
    made_reports = [PartReport.read(directory.file(part, "json")) for part in parts]
    manifest = Manifest.of(plan, made_reports)
    if not manifest.counts.kept:
        raise no_examples(manifest.counts, *directory.first_rejected(), rejects=directory.rejects_glob())
    write_record(directory.path / MANIFEST_FILE, manifest)
    return manifest


def write_part(preparation: Preparation, number: int, directory: ShardDirectory) -> Counts:
    """Write one shard, its rejected rows beside it, and last its report."""
    places, sources = preparation.places(number), preparation.sources
    raw = preparation.mixture.read(sources, places.start, places.stop)
    part = build_part(raw, preparation.builder)
    shard, rejects = directory.file(number, "arrow"), directory.file(number, "rejects.jsonl")
    write_shard(shard, part.examples)
    lines = []
    for at, row in part.rejected.items():
        where = preparation.where(places[at])
        value = None if isinstance(raw[at], Rejected) else raw[at]
        line = {"where": where, "reason": row.reason, "detail": row.detail, "row": value}
        lines.append(json.dumps(line, default=str) + "\n")
    if lines:
        write_whole(rejects, "".join(lines))
    else:
        rejects.unlink(missing_ok=True)
    source_of = preparation.mixture.source[places.start : places.stop]
    read = np.bincount(source_of, minlength=len(sources)).tolist()
    rejected = np.bincount(source_of[list(part.rejected)], minlength=len(sources)).tolist()
    report = PartReport(
        counts=part.counts,
        shard=Shard(file=shard.name, examples=len(part.examples), sha256=file_hash(shard)),
        sources=[
            SourceCounts(rows=rows, kept=rows - bad, rejected=bad)
            for rows, bad in zip(read, rejected, strict=True)
        ],
    )
    write_record(directory.file(number, "json"), report)
    return part.counts


def _made(
    preparation: Preparation,
    numbers: list[int],
    directory: ShardDirectory,
    workers: int,
    log: Callable[[str], None],
) -> Generator[Counts, None, None]:
    """Write parts, and give the counts of each as it is done."""
    if workers <= 1:
        for number in numbers:
            yield write_part(preparation, number, directory)
        return
    # A forked process would inherit the tokenizer library's threads and their locks.
    context = multiprocessing.get_context("spawn")
    # Sent through a worker's pipe, which is small, it would hold up the next one until this one has imported.
    # The copy by `replace` has loaded no tokenizer.
    job = ScratchFile(".pickle")
    with writing(job.path):
        job.path.write_bytes(pickle.dumps((replace(preparation), directory)))
    stop = context.Event()
    with ProcessPoolExecutor(workers, context, _begin, (job, stop)) as pool:
        try:
            with _children_ignore_interrupts():  # Processes start as parts are submitted.
                parts = [pool.submit(_write_part, number) for number in numbers]
            for done in as_completed(parts):
                counts = done.result()
                assert counts is not None  # The workers were not stopped.
                yield counts
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "prepare: a worker process was killed, as happens when memory runs out. Run the same command "
                "again to go on; --workers with a smaller number takes less memory."
            ) from error
        except BaseException:
            log("stopping; shards in work are being finished")
            stop.set()
            try:
                # The end of `with` would take back what is cancelled, and wait for every part.
                pool.shutdown(wait=True, cancel_futures=True)
            except KeyboardInterrupt:  # a second one
                for process in multiprocessing.active_children():
                    process.kill()
                raise
            raise


@contextmanager
def _children_ignore_interrupts() -> Iterator[None]:
    """Let processes that start meanwhile ignore SIGINT, from before their first import on.

    A new process inherits what is ignored, but no handler, which is code. Only the main thread may set it:
    the workers of any other ignore SIGINT once they have begun.
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


_job: tuple[Preparation, ShardDirectory, Event] | None = None


def _begin(job: ScratchFile, stop: Event) -> None:
    """Set up a worker process."""
    global _job
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are what is parallel
    preparation, directory = pickle.loads(job.path.read_bytes())
    _job = preparation, directory, stop


def _end_with_parent() -> None:
    """End this process when its parent is dead, which would leave it waiting for parts for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    remove_borrowed()
    os._exit(1)


def _write_part(number: int) -> Counts | None:
    """Write a part, unless the parent has stopped: what a process was handed cannot be cancelled."""
    assert _job is not None
    preparation, directory, stop = _job
    return None if stop.is_set() else write_part(preparation, number, directory)

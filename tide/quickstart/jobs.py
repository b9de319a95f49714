"""Jobs in child processes, on one thread each, with their progress passed back."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection


class JobFailed(RuntimeError):
    """A job raised, or its process died. The message holds what it said and where its output is."""


def run_job(
    function: Callable[..., Any],
    *arguments: Any,
    log: Path,
    on_progress: Callable[[int], None] | None = None,
    **keywords: Any,
) -> Any:
    """Calls `function` in a fresh process and returns what it returns.

    The processes are forked from a server that has imported torch and transformers once, so a job starts at
    once and its peak memory holds nothing of an earlier job.

    Args:
        function: a function of an importable module; its arguments and result must pickle.
        log: file for what the job prints.
        on_progress: when given, the job gets `report`, a function of one integer, and every report comes
            here.
    Raises:
        JobFailed: the job raised or died.
        ValueError: the job found bad input.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tide.quickstart.worker"])
    receiver, sender = context.Pipe(duplex=False)
    log.parent.mkdir(parents=True, exist_ok=True)
    process = context.Process(
        target=_child,
        args=(sender, str(log), function, arguments, keywords, on_progress is not None),
        daemon=True,
    )
    process.start()
    sender.close()
    try:
        while True:
            kind, value = receiver.recv()
            if kind == "progress" and on_progress is not None:
                on_progress(value)
            elif kind == "result":
                return value
            elif kind == "bad input":
                raise ValueError(value)
            elif kind == "error":
                raise JobFailed(f"{value}\nIts output is in {log}.")
    except EOFError:
        process.join()
        raise JobFailed(
            f"quickstart: a job ended with exit status {process.exitcode} (−9: killed, often for "
            f"memory). Its output is in {log}."
        ) from None
    finally:
        process.join(timeout=10)
        if process.is_alive():
            process.kill()


def _child(
    sender: Connection,
    log: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any],
    with_report: bool,
) -> None:
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    if with_report:
        keywords = {**keywords, "report": lambda value: sender.send(("progress", value))}
    try:
        sender.send(("result", function(*arguments, **keywords)))
    except ValueError as error:
        sender.send(("bad input", str(error)))
    except KeyboardInterrupt:
        sender.send(("error", "interrupted"))
    except BaseException as error:
        traceback.print_exc()
        sender.send(("error", f"{type(error).__name__}: {error}"))

"""Commands as processes, side by side."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from tide.cli.faults import is_expected, unexpected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path


class Commands:
    """Runs Python modules in processes of `threads` threads; the first failure, or Ctrl-C, stops them all."""

    def __init__(self, threads: int = 1) -> None:
        threads_of = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._environment = {**os.environ, **threads_of, "TOKENIZERS_PARALLELISM": "false"}
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, *arguments: str, log: Path, watch: Callable[[], None] = lambda: None) -> str:
        """The standard output of `python -m ARGUMENTS`.

        Args:
            arguments: module and arguments.
            log: file to append its standard error to.
            watch: called twice a second while it runs.
        Raises:
            RuntimeError: the command failed; names the log.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        if self._stopped:
            raise RuntimeError("stopped before it ran")
        with log.open("a", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="utf-8",
                env=self._environment,
                start_new_session=True,  # Ctrl-C reaches this program alone, which stops each command once.
            )
        self._running.add(process)
        output = None
        while output is None:
            try:
                output, _ = process.communicate(timeout=0.5)
            except subprocess.TimeoutExpired:
                watch()
        self._running.discard(process)
        if process.returncode:
            last = log.read_text(encoding="utf-8").rstrip().rsplit("\n", 1)[-1]
            command = " ".join(arguments[:2])
            raise RuntimeError(f"{command}: exit status {process.returncode}: {last}\nIts log is {log}.")
        return output

    def side_by_side(self, functions: Iterable[Callable[[], None]], jobs: int) -> None:
        """Call functions that call `run`, at most `jobs` at once."""
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(function) for function in functions]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                self._stopped = True
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self._running):
                    process.terminate()  # `tide distill` writes a checkpoint first.
                raise


def exit_status(program: str, run: Callable[[], object]) -> int:
    """Run a program that goes on when it is run again.

    Returns:
        0 done, 1 a command failed or an unexpected error, 2 bad input, 130 interrupted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # Stops the commands, too.
    try:
        run()
    except RuntimeError as error:  # of a command
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        expected = is_expected(error)
        line = str(error) if expected else unexpected(program, error)
        print(f"{program}: {line.removeprefix(f'{program}: ')}", file=sys.stderr)
        return 2 if expected else 1
    except KeyboardInterrupt:
        print(f"\n{program}: interrupted. Run the same command again to go on.", file=sys.stderr)
        return 130
    return 0


def steps_done(log: Path, steps: int) -> int:
    """Optimiser steps by the last line of figures in the log of `tide distill`."""
    written = log.read_text(encoding="utf-8", errors="replace")
    done = re.findall(rf"^step +(\d+)/{steps} ", written, re.MULTILINE)
    return int(done[-1]) if done else 0

"""Run a program as several ranks on one machine, like `torchrun`, over gloo."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def run_ranks(program: str, world: int, folder: Path, *arguments: str, seconds: float) -> None:
    """Run a program on every rank with torchrun's environment; assert that all succeed in time.

    Args:
        program: Python source; its output is shown if a rank fails.
        world: number of ranks.
        folder: working directory, which also receives the logs.
        arguments: of the program.
        seconds: time limit.
    """
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(world),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    deadline = time.monotonic() + seconds
    logs = [folder / f"rank{rank}.log" for rank in range(world)]
    processes = []
    try:
        for rank, log in enumerate(logs):
            with log.open("w") as file:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, "-c", program, *arguments],
                        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        cwd=folder,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # the rank is killed below, so its code is not 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    codes = [process.returncode for process in processes]
    assert codes == [0] * world, "\n".join([f"codes {codes}", *(log.read_text() for log in logs)])


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

"""Run a measurement in a new process, free of memory from earlier work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def in_process(
    module: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run `python -m MODULE --worker TASK` and decode the JSON in its last line of output.

    Args:
        module: of `benchmarks`.
        task: argument of `--worker`.
        environment: additional environment variables.

    Raises:
        RuntimeError: the process failed.
    """
    command = [sys.executable, "-m", module, "--worker", json.dumps(task)]
    variables = os.environ | dict(environment or {})
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"measurement {task} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result

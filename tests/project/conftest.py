"""The files that belong to the project, for the tests that look at the tree as a whole."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[2]
# Read only where git cannot say what is ignored, as in an unpacked source archive.
NOT_OURS = {".git", ".hypothesis", ".venv", "__pycache__", "build", "dist", "runs", "venv"}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files() -> list[PurePosixPath]:
    """Every file that git tracks or would add, relative to the root."""
    return [PurePosixPath(name) for name in sorted(_from_git() or _from_walk()) if (ROOT / name).is_file()]


def _from_git() -> set[str]:
    # Without a repository of its own the root may lie inside another one, which would list nothing.
    if not (ROOT / ".git").exists():
        return set()
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name}


def _from_walk() -> set[str]:
    found = set()
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [
            n for n in subfolders if n not in NOT_OURS and not n.endswith((".egg-info", "_cache"))
        ]
        found |= {(Path(folder) / name).relative_to(ROOT).as_posix() for name in names}
    return found

"""Temporary files that live as long as what reads them; copies in other processes read along."""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path


class ScratchFile:
    """A file in the temporary directory (`TMPDIR`), removed with this object or when its process ends.

    A pickled copy reads the same file and removes nothing: it must not outlive the original.
    """

    def __init__(self, suffix: str = "") -> None:
        handle, name = tempfile.mkstemp(prefix="tide-", suffix=suffix)
        os.close(handle)
        self.path = Path(name)
        self._finalizer = weakref.finalize(self, _remove, name, os.getpid())

    def __reduce__(self) -> tuple[object, ...]:
        return _borrowed, (self.path,)


def _borrowed(path: Path) -> ScratchFile:
    scratch = ScratchFile.__new__(ScratchFile)
    scratch.path = path
    return scratch


def _remove(name: str, owner: int) -> None:
    # A forked process inherits the finalizer, not the file.
    if os.getpid() == owner:
        Path(name).unlink(missing_ok=True)

"""Files that are written whole, hashed, or temporary."""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tide.disk import flush, writing


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write; it replaces `path` at the end, so that no reader sees a part."""
    beside = path.with_name(path.name + ".new")
    try:
        with writing(path.parent):
            yield beside
            flush(beside)
            beside.replace(path)
            flush(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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


_borrowed_paths: set[Path] = set()


def remove_borrowed() -> None:
    """Remove the scratch files that this process reads as copies, after the process that made them died."""
    for path in _borrowed_paths:
        path.unlink(missing_ok=True)


def _borrowed(path: Path) -> ScratchFile:
    _borrowed_paths.add(path)
    scratch = ScratchFile.__new__(ScratchFile)
    scratch.path = path
    return scratch


def _remove(name: str, owner: int) -> None:
    # A forked process inherits the finalizer, not the file.
    if os.getpid() == owner:
        Path(name).unlink(missing_ok=True)

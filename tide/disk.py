"""Places to write: one writer at a time, files saved together, errors that name path and free space."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK_FILE, WRITER_FILE, ASIDE = ".tide.lock", ".tide.writer", ".tide-saving"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ENOTDIR, errno.ENAMETOOLONG)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Name the path and the free space where the file system refuses what is written at or below `path`.

    Raises:
        OSError: for an error of a full disk or an unwritable place from within, of any library; one line.
    """
    try:
        yield
    except Exception as error:
        code, place = _code_of(error), getattr(error, "filename", None) or path
        one, other = Path(place).absolute(), Path(path).absolute()
        is_there = one.is_relative_to(other) or other.is_relative_to(one)
        if code is None or not (is_there or code in _FULL):
            raise
        remedy = "Free some" if code in _FULL else "Make it writable"
        raise OSError(
            f"cannot write {str(place)!r}: {os.strerror(code)}, {_free_mib(Path(place)):,} MiB free there. "
            f"{remedy}, or name another place."
        ) from error


@contextmanager
def one_writer(function: str, directory: Path) -> Iterator[None]:
    """Make `directory` and hold its lock; where nothing was written, nothing is left.

    Raises:
        ValueError: another process holds it; says which.
        OSError: the directory cannot be written.
    """
    from filelock import FileLock, Timeout  # here: recipes are checked without it

    made = [path for path in (directory, *directory.parents) if not path.exists()]
    lock, writer = FileLock(directory / LOCK_FILE), directory / WRITER_FILE
    try:
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                holder = _read(writer) or "another process"
                raise ValueError(
                    f"{function}: {holder} writes to {str(directory)!r}. Wait until it ends, stop it, or "
                    "name another directory."
                ) from None
            since = datetime.now().astimezone().isoformat(" ", "seconds")
            writer.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {since},", "utf-8")
        yield
    finally:
        if lock.is_locked:
            # Before the release: filelock 3.21 takes no lock on a file that was removed.
            for file in (writer, directory / LOCK_FILE):
                file.unlink(missing_ok=True)
            lock.release()
        for path in made:
            with suppress(OSError):  # something was written
                path.rmdir()


@contextmanager
def installed_in(folder: Path) -> Iterator[Path]:
    """Give a new folder to write; its files replace their namesakes in `folder` at the end, weights last."""
    aside = folder / ASIDE
    shutil.rmtree(aside, ignore_errors=True)  # of a killed process
    try:
        aside.mkdir(parents=True, exist_ok=True)
        yield aside
        files = [path for path in aside.rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: (path.suffix == ".safetensors", path)):
            flush(path)
            target = folder / path.relative_to(aside)
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
        flush(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def others_in(directory: Path) -> list[str]:
    """Names in a directory but for those of `one_writer`; none if it is missing."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return sorted(names - {LOCK_FILE, WRITER_FILE})


def _read(file: Path) -> str:
    with suppress(OSError, ValueError):
        return file.read_text("utf-8")
    return ""


def _code_of(error: Exception) -> int | None:
    """The code of an error that refuses a write, which Rust and C++ put into the text."""
    code = getattr(error, "errno", None)  # None where `writing` has named it already
    if isinstance(error, OSError):
        return code if code in _REFUSED else None
    if written := re.search(r"os error (\d+)", str(error)):
        code = int(written[1])
    elif re.search(
        "No space left|file write failed|failed writing file|unexpected pos|iostream error", str(error)
    ):
        code = errno.ENOSPC
    return code if code in _REFUSED else None


def _free_mib(path: Path) -> int:
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free >> 20

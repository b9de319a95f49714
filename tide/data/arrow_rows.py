"""Rows of Arrow tables: Arrow files, mapped into memory; Parquet files; data sets of the hub.

A process of its own first reads every file (`arrow_check`), since a damaged one may crash pyarrow or keep it
busy for ever. Where rows cannot be taken by number, as from Parquet, it writes a temporary Arrow file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tide.config.rules import PARQUET_SUFFIXES
from tide.data import arrow_check
from tide.data.conversation import CONTEXT_KEYS, KEYS, Rejected
from tide.data.files import ScratchFile
from tide.data.gather import gather
from tide.disk import writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Int64

    from tide.data.conversation import Raw

# A check that takes longer is stopped: a slow disk gives more.
SECONDS_TO_START = 60
BYTES_PER_SECOND = 10e6
# Path, size and time of change of Arrow files that were checked and are read as they are.
_SOUND: set[tuple[str, int, int]] = set()


class ArrowRows:
    """Rows of a table; columns that no form of rows has are left unread."""

    def __init__(self, name: str, table: Callable[[], pa.Table]) -> None:
        """Open the table; `table` opens it again in another process."""
        self.name = name
        self._open = table
        try:
            self._columns = arrow_check.columns_of_rows(table().column_names, KEYS, CONTEXT_KEYS)
        except arrow_check.Refused as error:
            raise ValueError(f"open_source: {name!r} {error}") from None
        self._batches: list[Any] | None = None
        self._bounds = np.cumsum([0, *(batch.num_rows for batch in self._opened())], dtype=np.int64)

    def _opened(self) -> list[Any]:
        if self._batches is None:
            self._batches = self._open().select(self._columns).to_batches()
        return self._batches

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def rows(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        """Read rows by number, in this order."""
        batches, wanted = self._opened(), np.asarray(indices, dtype=np.int64)
        batch_of = np.searchsorted(self._bounds, wanted, side="right") - 1

        def read(number: int, rows: np.ndarray) -> list[Raw | Rejected]:
            return self._values(batches[number].take(pa.array(rows - self._bounds[number])), rows)

        return gather(batch_of, wanted, read)

    def where(self, index: int) -> str:
        """Name and number of a row, from 0."""
        return f"{self.name}:row {index}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_batches": None}

    def _values(self, batch: Any, indices: Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        try:
            return batch.to_pylist()  # type: ignore[no-any-return]
        except Exception as error:  # text that is no UTF-8, times that Python cannot hold, ...
            if len(indices) > 1:
                singles = (batch.slice(at, 1) for at in range(len(indices)))
                return [self._values(single, indices[at : at + 1])[0] for at, single in enumerate(singles)]
            where = self.where(int(indices[0]))
            if isinstance(error, UnicodeDecodeError):
                return [Rejected("invalid UTF-8", f"{where}: {error.reason}")]
            return [Rejected("wrong type", f"{where}: {error}")]


def arrow_rows(paths: Sequence[Path]) -> list[ArrowRows]:
    """Open Parquet files, and Arrow files in their file or their stream form.

    Raises:
        ValueError: a file is damaged, crashes its reader or keeps it too long, or has no columns of rows.
        OSError: a copy of a file cannot be written to the temporary directory.
    """
    unknown = [path for path in paths if _state(path) not in _SOUND]
    tables = {path: partial(_mapped, path) for path in paths}
    copies = [ScratchFile(".arrow") for _ in unknown]
    for path, copy, is_copied in zip(unknown, copies, _checked(unknown, copies), strict=True):
        if is_copied:
            tables[path] = partial(_mapped_scratch, copy)
        else:
            _SOUND.add(_state(path))
    return [ArrowRows(str(path), tables[path]) for path in paths]


def _state(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return os.path.realpath(path), status.st_size, status.st_mtime_ns


def _checked(paths: Sequence[Path], copies: Sequence[ScratchFile]) -> list[bool]:
    """Check files in one process of their own; return which it copied."""
    if not paths:
        return []
    named = zip(paths, copies, strict=True)
    files = [
        (str(path), str(copy.path), path.name.lower().endswith(PARQUET_SUFFIXES)) for path, copy in named
    ]
    seconds = SECONDS_TO_START + sum(path.stat().st_size for path in paths) / BYTES_PER_SECOND
    # Isolated from the folders of this file and of the caller, whose names may be those of other modules.
    run = f"runpy.run_path({arrow_check.__file__!r}, None, '__main__')"
    try:
        ran = subprocess.run(
            [sys.executable, "-I", "-c", f"import runpy, sys; sys.path[:] = {sys.path!r}; {run}"],
            input=json.dumps({"columns": KEYS, "beside": CONTEXT_KEYS, "files": files}).encode(),
            capture_output=True,
            timeout=seconds,
        )
        said = " ".join(ran.stderr.decode(errors="replace").split()[-20:])
        written, ended = ran.stdout, f"its reader ended with exit status {ran.returncode} {said}".rstrip()
    except subprocess.TimeoutExpired as error:
        written, ended = error.stdout or b"", f"its reader was stopped after {seconds:.0f} seconds"
    answers = [json.loads(line) for line in written.splitlines(keepends=True) if line.endswith(b"\n")]
    answers += [{"damaged": ended}] * (len(paths) - len(answers))
    for path, copy, answer in zip(paths, copies, answers, strict=True):
        if "unwritten" in answer:
            with writing(copy.path):
                raise OSError(answer["unwritten"], os.strerror(answer["unwritten"]))
        if "refused" in answer:
            raise ValueError(f"open_source: {str(path)!r} {answer['refused']}")
        if "damaged" in answer:
            raise ValueError(
                f"open_source: {str(path)!r} cannot be read ({answer['damaged']}). Is it whole? Download or "
                "write it again."
            )
    return [answer["copied"] for answer in answers]


def _mapped(path: Path) -> pa.Table:
    source = pa.memory_map(str(path))
    is_file = source.read(len(arrow_check.FILE_MAGIC)) == arrow_check.FILE_MAGIC
    source.seek(0)
    return (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()


def _mapped_scratch(scratch: ScratchFile) -> pa.Table:
    return _mapped(scratch.path)

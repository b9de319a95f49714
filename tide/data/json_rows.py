"""Rows of JSON files: one object a line, or one array of objects; gzip or plain.

One pass over the bytes finds where lines begin; gzip and arrays are first written to a temporary file as
plain lines. A line that is no JSON object is a Rejected.
"""

from __future__ import annotations

import gzip
import json
import mmap
import shutil
import zlib
from typing import TYPE_CHECKING

import numpy as np

from tide.data.conversation import Rejected
from tide.data.files import ScratchFile
from tide.disk import writing

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from jaxtyping import Int64

    from tide.data.conversation import Raw

_BOM = b"\xef\xbb\xbf"
_SCANNED_AT_ONCE = 1 << 26  # bytes


class JsonRows:
    """Rows of one file; blank lines are none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scratch: ScratchFile | None = None
        self._unit = ""  # of `where`
        try:
            if path.name.lower().endswith(".gz"):
                self._scratch = _unpacked(path)
            if path.name.lower().endswith((".json", ".json.gz")) and _begins_array(self._plain):
                self._scratch = _array_as_lines(self._plain)
                self._unit = "item "
            self._text = _mapped(self._plain)
        except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
            raise ValueError(f"open_source: {str(path)!r} cannot be read ({error}). Is it whole?") from None
        self._starts, self._numbers = _lines(self._text)

    @property
    def _plain(self) -> Path:
        return self.path if self._scratch is None else self._scratch.path

    def __len__(self) -> int:
        return len(self._starts)

    def rows(self, indices: Iterable[int]) -> list[Raw | Rejected]:
        """Read rows by number, in this order."""
        return [self._row(index) for index in indices]

    def where(self, index: int) -> str:
        """File and line of a row."""
        number = index + 1 if self._numbers is None else int(self._numbers[index])
        return f"{self.path}:{self._unit}{number}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_text": None}

    def _row(self, index: int) -> Raw | Rejected:
        if self._text is None:  # in a process that was given a copy
            self._text = _mapped(self._plain)
        start = int(self._starts[index])
        end = self._text.find(b"\n", start)
        line = self._text[start : len(self._text) if end < 0 else end]
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return Rejected("invalid UTF-8", f"{self.where(index)}: {error.reason} at byte {error.start + 1}")
        except json.JSONDecodeError as error:
            return Rejected("not JSON", f"{self.where(index)}: {error.msg} at column {error.colno}")
        except (RecursionError, ValueError) as error:  # nested too deep, a number of too many digits
            return Rejected("not JSON", f"{self.where(index)}: {error}")
        if not isinstance(value, dict):
            return Rejected("not an object", f"{self.where(index)}: a JSON {type(value).__name__}")
        return value


def _mapped(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        # No bytes cannot be mapped.
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""


def _lines(text: mmap.mmap | bytes) -> tuple[Int64[np.ndarray, " R"], Int64[np.ndarray, " R"] | None]:
    """Find where the lines begin that are not blank, and their numbers from 1; None if no line is blank."""
    size, codes = len(text), np.frombuffer(text, dtype=np.uint8)
    ends = [
        np.flatnonzero(codes[at : at + _SCANNED_AT_ONCE] == ord("\n")) + at
        for at in range(0, size, _SCANNED_AT_ONCE)
    ]
    first = len(_BOM) if text[: len(_BOM)] == _BOM else 0
    starts = np.concatenate([np.array([first], dtype=np.int64), *(part + 1 for part in ends)])
    starts = starts[starts < size]
    # Only a line that begins with whitespace may be blank.
    blank = np.zeros(len(starts), dtype=bool)
    for line in np.flatnonzero(codes[starts] <= ord(" ")):
        end = starts[line + 1] if line + 1 < len(starts) else size
        blank[line] = not text[starts[line] : end].strip()
    if not blank.any():
        return starts, None
    return starts[~blank], np.flatnonzero(~blank) + 1


def _unpacked(path: Path) -> ScratchFile:
    scratch = ScratchFile(".jsonl")
    with writing(scratch.path), gzip.open(path) as packed, scratch.path.open("wb") as plain:
        shutil.copyfileobj(packed, plain, 1 << 20)
    return scratch


def _begins_array(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1 << 16).removeprefix(_BOM).lstrip()[:1] == b"["


def _array_as_lines(path: Path) -> ScratchFile:
    items = json.loads(path.read_text(encoding="utf-8-sig"))
    scratch = ScratchFile(".jsonl")
    with writing(scratch.path), scratch.path.open("w", encoding="ascii") as lines:
        lines.writelines(json.dumps(item) + "\n" for item in items)
    return scratch

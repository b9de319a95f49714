"""Open sources of rows: files, directories, saved data sets, the hub. Rows are read by number.

Files are JSON lines or arrays (`.jsonl`, `.ndjson`, `.json`, each also `.gz`), Parquet (`.parquet`) and Arrow
(`.arrow`, `.feather`). Only the hub needs the `datasets` package.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tide.config.rules import FILE_SUFFIXES, JSON_SUFFIXES
from tide.data.arrow_rows import ArrowRows, arrow_rows
from tide.data.conversation import Raw, Rejected, read_row
from tide.data.gather import gather
from tide.data.json_rows import JsonRows

if TYPE_CHECKING:
    from jaxtyping import Int64

_KNOWN = f"Known are {', '.join(FILE_SUFFIXES)}."
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")  # as the hub names the files of a split
_SPLIT_WORDS = frozenset({"train", "test", "validation", "valid", "val", "dev", "eval"})
# Written by `datasets` and the hub beside rows.
_ABOUT_ROWS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_READ_AT_ONCE = 256
_MAX_NAMED = 5  # files in a message


class Source:
    """Rows in a fixed order, read on demand; a pickled copy reads the same rows in another process.

    Temporary files are removed with the object that `open_source` returned; copies do not keep them.

    Attributes:
        name: as given to `open_source`.
        files: in the order of their rows; none for a data set of the hub.
    """

    def __init__(self, name: str, files: Sequence[Path], parts: Sequence[ArrowRows | JsonRows]) -> None:
        self.name = name
        self.files = tuple(files)
        self._parts = tuple(parts)
        self._bounds = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        self._selected = np.arange(self._bounds[-1])

    def __len__(self) -> int:
        return len(self._selected)

    def __iter__(self) -> Iterator[tuple[int, Raw | Rejected]]:
        """Give every row with its number."""
        for start in range(0, len(self), _READ_AT_ONCE):
            indices = range(start, min(start + _READ_AT_ONCE, len(self)))
            yield from zip(indices, self.rows(indices), strict=True)

    def rows(self, indices: Sequence[int] | Int64[np.ndarray, " n"]) -> list[Raw | Rejected]:
        """Read rows by number, in this order; a row that cannot be read is Rejected, with file and line."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise IndexError(f"Source: no row {wanted.max()} or {wanted.min()} among {len(self)}")
        wanted = self._selected[wanted]
        part_of = np.searchsorted(self._bounds, wanted, side="right") - 1
        local = wanted - self._bounds[part_of]
        return gather(part_of, local, lambda number, rows: self._parts[number].rows(rows))

    def where(self, index: int) -> str:
        """File and line of a row, or what comes closest."""
        index = int(self._selected[index])
        number = int(np.searchsorted(self._bounds, index, side="right")) - 1
        return self._parts[number].where(index - int(self._bounds[number]))

    def with_answer(self, text: str) -> Source:
        """Select the rows of which an answer contains a text, as written; rejected rows stay, to be counted.

        Raises:
            ValueError: no row has it.
        """
        kept, num_rejected = [], 0
        for index, raw in self:
            row = read_row(raw)
            if isinstance(row, Rejected) or any(text in answer for answer in row.answers):
                kept.append(index)
                num_rejected += isinstance(row, Rejected)
        if len(kept) == num_rejected:
            rejected = f" ({num_rejected} of them rejected)" if num_rejected else ""
            raise ValueError(
                f"with_answer: no answer in the {len(self)} rows{rejected} of {self.name!r} contains "
                f"{text!r}, upper and lower case as written. Correct answer_contains, or leave it out."
            )
        selection = Source(self.name, self.files, self._parts)
        selection._selected = self._selected[kept]
        return selection

    def fingerprint(self) -> str:
        """SHA-256 of the rows as read, whatever their files or compression."""
        digest = hashlib.sha256()
        for _, row in self:
            value = row.reason if isinstance(row, Rejected) else row
            digest.update(json.dumps(value, sort_keys=True, default=repr).encode() + b"\n")
        return digest.hexdigest()


def open_source(path: str | Path, *, subset: str | None = None, split: str = "train") -> Source:
    """Open rows.

    Args:
        path: a file; a glob of files; a directory that `datasets.save_to_disk` wrote; any other directory,
            whose files with a known suffix are read at any depth, in the order of their names; or the name
            of a data set on the hub, unless a file of that name exists.
        subset: the configuration of a data set on the hub.
        split: of a data set on the hub or a saved dictionary of data sets. In a directory: if any file or
            folder is named after a split (`test.jsonl`, `train-00000-of-00002.parquet`), only those of this
            one are read, and a file of no split is an error. Files and globs are read whole.
    Raises:
        ValueError: nothing is there, or no rows are; a file is damaged; the split is missing; a directory of
            splits holds a file of none; the `datasets` package is missing, or the hub's data set.
    """
    name = str(path)
    files = files_at(path, split=split)
    tables = iter(arrow_rows([file for file in files if _suffix(file) not in JSON_SUFFIXES]))
    parts = [JsonRows(file) if _suffix(file) in JSON_SUFFIXES else next(tables) for file in files]
    source = Source(name, files, parts or [_hub_rows(name, subset, split)])
    if not len(source):
        raise ValueError(f"open_source: {name!r} holds no rows. Leave it out, or give it some.")
    return source


def files_at(path: str | Path, *, split: str = "train") -> list[Path]:
    """List the files that `open_source` reads, in order; none for the name of a data set on the hub."""
    name = str(path)
    expanded = Path(name).expanduser()
    if expanded.is_dir():
        return _saved_files(expanded, split) or _directory_files(expanded, split)
    if expanded.exists():
        if not _suffix(expanded):
            raise ValueError(f"open_source: {name!r} is of no known kind. {_KNOWN}")
        return [expanded]
    if glob.has_magic(name):
        found = map(Path, glob.glob(str(expanded), recursive=True))
        files = sorted(file for file in found if file.is_file() and _suffix(file))
        if not files:
            raise ValueError(f"open_source: no file of a known kind matches {name!r}. {_KNOWN}")
        return files
    if _HUB_ID.fullmatch(name) and not _suffix(Path(name)):
        return []
    raise ValueError(f"open_source: no file or directory at {name!r}. Correct the path.")


def _suffix(path: Path) -> str | None:
    """The longest known suffix."""
    name = path.name.lower()
    return max((suffix for suffix in FILE_SUFFIXES if name.endswith(suffix)), key=len, default=None)


def _saved_files(directory: Path, split: str) -> list[Path]:
    """List the Arrow files of a directory that `datasets.save_to_disk` wrote; none if it is not one."""
    of_splits = directory / "dataset_dict.json"
    if of_splits.is_file():
        splits = json.loads(of_splits.read_text(encoding="utf-8"))["splits"]
        if split not in splits:
            raise ValueError(f"open_source: {str(directory)!r} has no split {split!r}, only {splits}.")
        directory = directory / split
    state = directory / "state.json"
    if not state.is_file() or not (directory / "dataset_info.json").is_file():
        return []
    values = json.loads(state.read_text(encoding="utf-8"))
    if values.get("_indices_data_files"):
        raise ValueError(
            f"open_source: {str(directory)!r} was saved by an old `datasets` as a selection of rows. Load it "
            "with `datasets.load_from_disk`, and save it again."
        )
    return [directory / file["filename"] for file in values["_data_files"]]


def _directory_files(directory: Path, split: str) -> list[Path]:
    found = sorted(file for file in directory.rglob("*") if file.is_file() and _suffix(file))
    names = [file.relative_to(directory) for file in found if file.name not in _ABOUT_ROWS]
    names = [name for name in names if not any(part.startswith((".", "_")) for part in name.parts)]
    if not names:
        raise ValueError(f"open_source: {str(directory)!r} holds no file of a known kind. {_KNOWN}")
    splits = {name: _splits(name, split) for name in names}
    all_splits = sorted(set().union(*splits.values()))
    without_split = [str(name) for name in names if not splits[name]]
    if all_splits and without_split:
        more = f" and {len(without_split) - _MAX_NAMED:,} more" if len(without_split) > _MAX_NAMED else ""
        raise ValueError(
            f"open_source: {str(directory)!r} holds files of the splits {all_splits}, and others whose names "
            f"say no split: {without_split[:_MAX_NAMED]}{more}. Move these elsewhere or name them after a "
            "split, or give one file or a glob in place of the directory."
        )
    if all_splits and split not in all_splits:
        raise ValueError(f"open_source: {str(directory)!r} has no split {split!r}, only {all_splits}.")
    return [directory / name for name in names if not all_splits or split in splits[name]]


def _splits(path: Path, split: str) -> set[str]:
    """Find split names in a file's name, or else in its folders'."""
    stem = path.name[: -len(_suffix(path) or "")]
    shard = _SHARD.fullmatch(stem)
    if shard:
        return {shard[1]}
    for name in (stem, *reversed(path.parts[:-1])):
        words = _SPLIT_WORDS.intersection(re.split(r"[^a-z0-9]+", name.lower()))
        if name == split or words:
            return {name} if name == split else set(words)
    return set()


def _hub_rows(name: str, subset: str | None, split: str) -> ArrowRows:
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"open_source: no file or directory at {name!r}, and a data set of the hub needs the `datasets` "
            'package. Correct the path, or pip install "tide-distill[hub]".'
        ) from None
    try:
        dataset = datasets.load_dataset(name, name=subset, split=split)
    except Exception as error:
        raise ValueError(
            f"open_source: no file or directory at {name!r}, and the hub gives no such data set, subset "
            f"{subset!r}, split {split!r} ({error}). Correct the name, or log in to the hub."
        ) from error
    # Pickled by the files that the data set lies in.
    return ArrowRows(name, partial(dataset.with_format("arrow").__getitem__, slice(None)))

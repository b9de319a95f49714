"""Checkpoints that are whole or not there: written aside, flushed to disk, renamed, listed in a manifest.

checkpoint-N/manifest.json   size and SHA-256 of every file of the checkpoint
.tide-saving/                what is being written; removed when the run starts or a save ends
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tide.config import Record, decode
from tide.data import file_hash, write_whole
from tide.disk import flush

if TYPE_CHECKING:
    from collections.abc import Callable

MANIFEST_FILE = "manifest.json"


class FileRecord(Record):
    """One file of a checkpoint."""

    num_bytes: int
    sha256: str


class CheckpointManifest(Record):
    """All files of a checkpoint but the manifest, by their path in it."""

    files: dict[str, FileRecord]


def checkpoints_in(output_dir: str | Path) -> list[Path]:
    """All `checkpoint-N` folders, by N."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir()]
    return sorted((path for path in folders if re.fullmatch("checkpoint-[0-9]+", path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step N of `checkpoint-N`."""
    return int(checkpoint.name.split("-")[-1])


def latest_complete_checkpoint(
    output_dir: str | Path, log: Callable[[str], None] = lambda line: None
) -> Path | None:
    """The newest checkpoint that is as its manifest says; nothing is removed.

    Args:
        output_dir: of the run.
        log: called with a line for each newer checkpoint that is passed over.
    """
    for path in reversed(checkpoints_in(output_dir)):
        if (damage := _damage(path)) is None:
            return path
        log(f"passing over {path}: {damage}")
    return None


def publish(written: Path, checkpoint: Path) -> None:
    """List a finished folder's files in its manifest and rename it to `checkpoint`.

    Whatever has that name is renamed, not removed: it is damaged, or not of this run.
    """
    files = sorted(path for path in written.rglob("*") if path.is_file())
    records = {
        path.relative_to(written).as_posix(): FileRecord(
            num_bytes=path.stat().st_size, sha256=file_hash(path)
        )
        for path in files
    }
    for path in written.rglob("*"):
        flush(path)
    write_whole(written / MANIFEST_FILE, CheckpointManifest(files=records).model_dump_json(indent=1))
    if os.path.lexists(checkpoint):
        names = (checkpoint.with_name(f"{checkpoint.name}.old-{number}") for number in count(1))
        checkpoint.rename(next(name for name in names if not os.path.lexists(name)))
    written.rename(checkpoint)
    flush(checkpoint.parent)


def rotate(newest: Path, keep: int) -> None:
    """Remove the files of all but the last `keep` checkpoints up to `newest`.

    Only files of a manifest are removed, and then folders without any. Later checkpoints are damaged ones
    that the run passed over.
    """
    manifests = {
        path: _manifest(path) for path in checkpoints_in(newest.parent) if step_of(path) <= step_of(newest)
    }
    ours = [(path, manifest) for path, manifest in manifests.items() if manifest is not None]
    for checkpoint, manifest in ours[:-keep]:
        with suppress(OSError):
            # The manifest goes last, so that what an interruption leaves is removed the next time.
            for name in [*manifest.files, MANIFEST_FILE]:
                (checkpoint / name).unlink(missing_ok=True)
            folders = [path for path in checkpoint.rglob("*") if path.is_dir()]
            for folder in [*sorted(folders, reverse=True), checkpoint]:
                folder.rmdir()


def _manifest(checkpoint: Path) -> CheckpointManifest | None:
    with suppress(OSError, ValueError):
        return decode(
            CheckpointManifest, (checkpoint / MANIFEST_FILE).read_bytes(), where=MANIFEST_FILE, remedy=""
        )
    return None


def _damage(checkpoint: Path) -> str | None:
    """The first difference to the manifest, or None."""
    manifest = _manifest(checkpoint)
    if manifest is None:
        return f"{MANIFEST_FILE} is missing or damaged"
    for name, record in manifest.files.items():
        try:
            num_bytes = (checkpoint / name).stat().st_size
            if num_bytes != record.num_bytes:
                return f"{name} has {num_bytes:,} bytes, and was written with {record.num_bytes:,}"
            if file_hash(checkpoint / name) != record.sha256:
                return f"{name} is not as it was written (SHA-256)"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None

"""What a student is compared with on held-out text: itself before training, and its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide.config import Record, decode
from tide.data import write_whole
from tide.evaluation.likelihood import HeldOutLikelihood

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REFERENCES_FILE = "held_out.json"


class HeldOutReferences(Record):
    """Likelihoods of `data.held_out`; each model reads its own tokens, by its own contract.

    Attributes:
        start: of the student before training.
        teacher: None without one.
    """

    start: HeldOutLikelihood
    teacher: HeldOutLikelihood | None


def evaluate_references(
    folder: Path,
    start: Callable[..., HeldOutLikelihood],
    teacher: Callable[..., HeldOutLikelihood] | None,
    *,
    progress: bool,
) -> None:
    """Evaluate both and write held_out.json, for the end of a run that may be interrupted.

    Args:
        folder: of the run.
        start: evaluates the student before training; takes `progress`.
        teacher: likewise; None without one.
        progress: show bars.
    """
    references = HeldOutReferences(
        start=start(progress=progress), teacher=None if teacher is None else teacher(progress=progress)
    )
    write_whole(folder / REFERENCES_FILE, references.model_dump_json(indent=1) + "\n")


def read_references(folder: Path) -> HeldOutReferences | None:
    """What the run wrote when it started; None if it did not, or it is damaged."""
    try:
        written = (folder / REFERENCES_FILE).read_text(encoding="utf-8")
        return decode(HeldOutReferences, written, where=REFERENCES_FILE, remedy="Train again.")
    except (OSError, ValueError):
        return None

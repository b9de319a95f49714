"""The output directory of a run: its files, and when a run may start or go on in it.

recipe.yaml     the recipe, every default written out
inputs.sha256   a hash of the training examples
checkpoint-N/   the Trainer's, after N steps
summary.json    figures of a finished run; beside it the student, as `save_pretrained` writes it
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tide.config import differences, load_recipe
from tide.data import write_whole

if TYPE_CHECKING:
    from tide.config import Recipe

RECIPE_FILE, INPUTS_FILE, SUMMARY_FILE = "recipe.yaml", "inputs.sha256", "summary.json"


def checkpoints_in(output_dir: str | Path) -> list[Path]:
    """All `checkpoint-N` folders, by N."""
    found = [path for path in Path(output_dir).glob("checkpoint-*") if path.name.split("-")[-1].isdigit()]
    return sorted(found, key=_step_of)


def latest_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The newest complete checkpoint; later, torn ones are removed.

    The Trainer writes trainer_state.json last, so a folder is complete if that file parses.
    """
    for path in reversed(checkpoints_in(output_dir)):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return path
    return None


class RunDirectory:
    """`training.output_dir` of a recipe. It need not exist: nothing is written before `begin`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = Path(recipe.training.output_dir)

    def check(self, *, resume: bool) -> None:
        """Check that this recipe may start here or, with `resume`, go on here.

        Raises:
            ValueError: a file or another run is in the way, or this run cannot be resumed.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"distill: training.output_dir {str(self.path)!r} is a file. Name a directory.")
        checkpoints, has_summary = checkpoints_in(self.path), (self.path / SUMMARY_FILE).is_file()
        if not resume and (checkpoints or has_summary):
            held = checkpoints[-1].name if checkpoints else SUMMARY_FILE
            raise ValueError(
                f"distill: {str(self.path)!r} already holds {held} of a run. "
                "Pass --resume to go on with it, or name another training.output_dir."
            )
        if resume and has_summary and not checkpoints:
            raise ValueError(
                f"distill: the run in {str(self.path)!r} is finished, and its checkpoints are gone. "
                "Name another training.output_dir to train again."
            )
        if resume:
            self._check_same_recipe()

    def check_examples(self, fingerprint: str) -> None:
        """Check that the checkpoints here come from the same examples.

        Raises:
            ValueError: they do not; the resumed run would go on with other data.
        """
        written = self.path / INPUTS_FILE
        resumable = written.is_file() and checkpoints_in(self.path)
        if resumable and written.read_text(encoding="utf-8").strip() != fingerprint:
            raise ValueError(
                f"distill: the examples differ from those of the run in {str(self.path)!r}: "
                "the data or a tokenizer has changed. Restore it, or name another training.output_dir."
            )

    def begin(self, fingerprint: str) -> None:
        """Write the files that a later `--resume` is compared with."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / RECIPE_FILE, self.recipe.to_yaml())
        write_whole(self.path / INPUTS_FILE, fingerprint + "\n")

    @property
    def last_step(self) -> int:
        """The step of the last checkpoint, or -1."""
        return max(map(_step_of, checkpoints_in(self.path)), default=-1)

    def finished_summary(self) -> str | None:
        """The text that `finish` wrote, if the student is there, too."""
        summary = self.path / SUMMARY_FILE
        if not summary.is_file() or not (self.path / "model.safetensors").is_file():
            return None
        return summary.read_text(encoding="utf-8")

    def finish(self, summary: str) -> None:
        """Write the figures of the finished run."""
        write_whole(self.path / SUMMARY_FILE, summary + "\n")

    def _check_same_recipe(self) -> None:
        written = self.path / RECIPE_FILE
        earlier = load_recipe(written) if written.is_file() else self.recipe
        changed = differences(earlier.to_dict(), self.recipe.to_dict())
        # A run that was moved, or is named by another path, is the same run.
        changed.pop("training.output_dir", None)
        if changed:
            raise ValueError(
                f"distill: the recipe differs from the run in {str(self.path)!r} at "
                f"{', '.join(changed)}. Resume with that run's recipe.yaml, or name another "
                "training.output_dir."
            )


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[-1])

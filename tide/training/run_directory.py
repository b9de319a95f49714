"""The output directory of a run: its files, and when a run may start or go on in it.

recipe.yaml     the recipe, every default written out
inputs.sha256   a hash of the training examples
checkpoint-N/   the Trainer's, after N steps, with its manifest (tide/training/checkpoints.py)
summary.json    figures of a finished run; beside it the student, as `save_pretrained` writes it
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tide.config import differences, load_recipe
from tide.data import write_whole
from tide.disk import ASIDE, one_writer, others_in
from tide.methods import METHODS
from tide.training.checkpoints import checkpoints_in, step_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tide.config import Recipe

RECIPE_FILE, INPUTS_FILE, SUMMARY_FILE = "recipe.yaml", "inputs.sha256", "summary.json"


class RunDirectory:
    """`training.output_dir` of a recipe. It need not exist: nothing is written before `begin`."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = Path(recipe.training.output_dir)

    def locked(self) -> AbstractContextManager[None]:
        """Keep other runs out. Fails where the directory cannot be written; leaves none that stays empty.

        Raises:
            ValueError: it is a file, or another process writes to it.
            OSError: the directory cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"distill: training.output_dir {str(self.path)!r} is a file. Name a directory.")
        return one_writer("distill", self.path)

    def check(self, *, resume: bool) -> None:
        """Check that this recipe may start here or, with `resume`, go on here.

        Raises:
            ValueError: another run or other files are in the way, or this run cannot be resumed.
        """
        checkpoints, has_summary = checkpoints_in(self.path), (self.path / SUMMARY_FILE).is_file()
        if not resume and (checkpoints or has_summary):
            held = checkpoints[-1].name if checkpoints else SUMMARY_FILE
            raise ValueError(
                f"distill: {str(self.path)!r} already holds {held} of a run. "
                "Pass --resume to go on with it, or name another training.output_dir."
            )
        # `begin` writes it first.
        if not (self.path / INPUTS_FILE).is_file() and (others := self._others()):
            raise ValueError(
                f"distill: {str(self.path)!r} holds files of no run, such as {others[0]!r}. Name a new or "
                "empty training.output_dir."
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
        if resumable and written.read_bytes().strip() != fingerprint.encode():
            raise ValueError(
                f"distill: the examples differ from those of the run in {str(self.path)!r}: "
                "the data or a tokenizer has changed. Restore it, or name another training.output_dir."
            )

    def begin(self, fingerprint: str) -> None:
        """Write what a later `--resume` is compared with; remove what a killed run left half written."""
        self.path.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.path / ASIDE, ignore_errors=True)
        write_whole(self.path / INPUTS_FILE, fingerprint + "\n")
        write_whole(self.path / RECIPE_FILE, self.recipe.to_yaml())

    @property
    def last_step(self) -> int:
        """The step of the last checkpoint, or -1."""
        return max(map(step_of, checkpoints_in(self.path)), default=-1)

    def finished_summary(self) -> str | None:
        """The text that `finish` wrote, if the student is there, too."""
        summary = self.path / SUMMARY_FILE
        if not summary.is_file() or not (self.path / "model.safetensors").is_file():
            return None
        return summary.read_text(encoding="utf-8")

    def reopen(self) -> None:
        """Remove the figures of a shorter run, whose student is about to be replaced."""
        (self.path / SUMMARY_FILE).unlink(missing_ok=True)

    def finish(self, summary: str) -> None:
        """Write the figures of the finished run."""
        write_whole(self.path / SUMMARY_FILE, summary + "\n")

    def _others(self) -> list[str]:
        return [name for name in others_in(self.path) if name != f"{INPUTS_FILE}.new"]  # of a killed run

    def _check_same_recipe(self) -> None:
        written = self.path / RECIPE_FILE
        earlier = load_recipe(written) if written.is_file() else self.recipe
        changed = differences(earlier.to_dict(), self.recipe.to_dict())
        # A run that was moved, or is named by another path, is the same run.
        changed.pop("training.output_dir", None)
        fixed_by = _what_follows_max_steps(self.recipe)
        if "training.max_steps" in changed and not fixed_by:
            _, wanted = changed["training.max_steps"]
            if isinstance(wanted, int) and wanted >= self.last_step:
                del changed["training.max_steps"]
        if changed:
            reason = f" (it has reached step {self.last_step})"
            if fixed_by:
                reason = f" (in every step, {fixed_by} depends on max_steps)"
            raise ValueError(
                f"distill: the recipe differs from the run in {str(self.path)!r} at "
                f"{', '.join(changed)}{reason if 'training.max_steps' in changed else ''}. Resume with that "
                "run's recipe.yaml, or name another training.output_dir."
            )


def _what_follows_max_steps(recipe: Recipe) -> str:
    """What a longer run would compute otherwise from its first step on; "" if a run may be extended."""
    training, method, axis = recipe.training, METHODS[recipe.method], recipe.objective.lambda_axis
    if training.lr_scheduler not in ("constant", "constant_with_warmup"):
        return f"the learning rate of {training.lr_scheduler!r}"
    if training.lr_scheduler != "constant" and training.warmup_steps is None and training.warmup_ratio > 0:
        return "the warm-up of warmup_ratio"
    if method.term in ("tidal", "tidal_chunks") and (axis or method.lambda_axis) != "timestep":
        return "lambda"
    return ""

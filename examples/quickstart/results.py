"""The measurements of a quickstart, as written to results.json, and their comparison over seeds.

Tables, figures and report are made from `Results` alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tide.config import Record, decode
from tide.data import write_whole
from tide.evaluation import HeldOutLikelihood

BASELINE = "none"
"""The method the others are compared with: the same training without a teacher."""


class _Record(Record, ser_json_inf_nan="constants"):
    """A diverged loss is NaN in the file."""


class Evaluation(HeldOutLikelihood, _Record):
    """Held-out figures of one model, by diffusion time."""

    @property
    def loss(self) -> float:
        """Nats per byte, mean over the times; compares across tokenizers."""
        return _mean(list(self.nats_per_byte.values()))

    @property
    def percent_right(self) -> float:
        """Accuracy in %, mean over the times; does not compare across tokenizers."""
        return 100 * _mean(list(self.accuracy.values()))


class Model(_Record):
    """A checkpoint as it is; a tied head counts once in `parameters`."""

    name: str
    parameters: int
    vocabulary_size: int
    evaluation: Evaluation


class Completion(_Record):
    """A prompt, the student's completion, and the source's."""

    prompt: str
    completion: str
    reference: str


class Run(_Record):
    """One student: one method, one seed."""

    method: str
    seed: int
    evaluation: Evaluation
    seconds: float  # wall clock of training
    peak_memory_mib: float  # resident memory of the training process
    tokens_per_second: float  # of the student, in training
    curves: dict[str, list[tuple[int, float]]]  # term -> (step, nats), as logged
    held_out_curve: list[tuple[int, float]]  # (step, loss), from the undistilled start
    completions: list[Completion]  # of the first seed only


class Pipeline(_Record):
    """A teacher, the undistilled student that every run starts from, and the runs."""

    name: str
    student: Model
    teacher: Model
    runs: list[Run]

    @property
    def slug(self) -> str:
        """The name for files and anchors: lower-case letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def methods(self) -> list[str]:
        """Methods in the order of their first runs."""
        return list(dict.fromkeys(run.method for run in self.runs))

    def runs_of(self, method: str) -> list[Run]:
        """The runs of one method, by seed."""
        return sorted((run for run in self.runs if run.method == method), key=lambda run: run.seed)

    def differences(self, method: str) -> dict[int, float]:
        """Seed -> loss of the method minus the baseline's with the same seed; negative is better."""
        if method == BASELINE:
            return {}
        baseline = {run.seed: run.evaluation.loss for run in self.runs_of(BASELINE)}
        runs = (run for run in self.runs_of(method) if run.seed in baseline)
        return {run.seed: run.evaluation.loss - baseline[run.seed] for run in runs}

    @property
    def terms(self) -> list[tuple[str, str]]:
        """Each method with each of its logged loss terms."""
        return list(dict.fromkeys((run.method, term) for run in self.runs for term in run.curves))


class Results(_Record):
    """A whole quickstart."""

    environment: dict[str, str]  # versions and machine
    settings: dict[str, str]  # steps, seeds and numbers of functions
    recipes: dict[str, str]  # path -> text
    pipelines: list[Pipeline]

    def save(self, path: Path) -> None:
        """Write JSON; a reader sees the old file or the new one, whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged or of another version.
        """
        text = path.read_text(encoding="utf-8")
        return decode(cls, text, where=str(path), remedy="Pass --fresh to run the quickstart again.")


class Statistic(NamedTuple):
    """Mean and sample standard deviation (divisor n - 1) over seeds; no spread for one."""

    mean: float
    spread: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """Of at least one value."""
        mean = _mean(values)
        if len(values) == 1:
            return cls(mean)
        squares = math.fsum((value - mean) ** 2 for value in values)
        return cls(mean, math.sqrt(squares / (len(values) - 1)))


def finding(pipeline: Pipeline) -> str:
    """One sentence: the best method's gain over training without a teacher."""
    by_method = {method: list(pipeline.differences(method).values()) for method in pipeline.methods}
    means = {m: Statistic.of(values) for m, values in by_method.items() if values}
    means = {method: statistic for method, statistic in means.items() if not math.isnan(statistic.mean)}
    if not means:
        return f"No method can be compared with {BASELINE} yet."
    best = min(means, key=lambda method: means[method].mean)
    gain, values = means[best], by_method[best]
    if gain.mean >= 0:
        return f"No method beats {BASELINE}; {best} comes closest, at {gain.mean:+.4f} nats per byte."
    lowered = f"{-gain.mean:.4f}" + ("" if gain.spread is None else f" ± {gain.spread:.4f}")
    better = sum(value < 0 for value in values)
    seeds = "one seed" if len(values) == 1 else f"{better} of {len(values)} seeds"
    return f"{best} lowers held-out loss by {lowered} nats per byte against {BASELINE}, in {seeds}."


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

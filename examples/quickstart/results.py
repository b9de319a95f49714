"""The measurements of a quickstart, as written to results.json, and their comparison over seeds.

Tables, figures and report are made from `Results` alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from tide.config import Record, decode
from tide.data import write_whole
from tide.evaluation import HeldOutLikelihood, LikelihoodBound

BASELINE = "none"
"""The method the others are compared with: the same training without a teacher."""
LONGER = f"{BASELINE}, longer"
"""The baseline trained for as long as the slowest method: equal time beside equal steps."""
# Student's t for two-sided 95 %, at 1 to 10 degrees of freedom; the last, slightly too wide, for more.
T_95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


class _Record(Record, ser_json_inf_nan="constants"):
    """A diverged loss is NaN in the file."""


class Bound(LikelihoodBound, _Record):
    """The bound of one model."""


class Evaluation(HeldOutLikelihood, _Record):
    """Held-out figures of one model."""

    bound: Bound

    @property
    def loss(self) -> float:
        """The bound in nats per byte; compares across tokenizers."""
        return self.bound.nats_per_byte

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
    """A prompt, the model's completion, and the source's."""

    prompt: str
    completion: str
    reference: str


class Run(_Record):
    """One student: one method, one seed."""

    method: str  # or LONGER
    seed: int
    steps: int
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
    completions: list[Completion] = Field(default_factory=list)  # the teacher's

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

    def differences(self, method: str, against: str = BASELINE) -> dict[int, float]:
        """Seed -> loss of the method minus the other's with the same seed; negative is better."""
        if method == against:
            return {}
        other = {run.seed: run.evaluation.loss for run in self.runs_of(against)}
        runs = (run for run in self.runs_of(method) if run.seed in other)
        return {run.seed: run.evaluation.loss - other[run.seed] for run in runs}

    def gap_closed(self, model: Evaluation) -> float:
        """How far the model is from the start to the teacher, in %; nan where the teacher is no better."""
        start, gap = self.student.evaluation.loss, self.gap
        return 100 * (start - model.loss) / gap if gap > 0 else math.nan

    @property
    def gap(self) -> float:
        """Loss of the start minus the teacher's."""
        return self.student.evaluation.loss - self.teacher.evaluation.loss

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
    """Mean, sample standard deviation (divisor n - 1) and interval over seeds; the mean alone of one."""

    mean: float
    spread: float | None = None
    interval: float | None = None  # half the width of the mean's 95 % confidence interval

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """Of at least one value."""
        mean, n = _mean(values), len(values)
        if n == 1:
            return cls(mean)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        return cls(mean, spread, T_95[min(n - 1, len(T_95)) - 1] * spread / math.sqrt(n))

    @property
    def holds_zero(self) -> bool:
        """True if zero is in the interval: the mean is not significant."""
        return self.interval is not None and abs(self.mean) <= self.interval


def finding(pipeline: Pipeline) -> str:
    """One sentence: how much of the teacher's gap each method closes, and what the teacher adds to it."""
    if not pipeline.runs:
        return "No student is trained yet."
    if not pipeline.gap > 0:
        return "The teacher is no better than the start, so there is no gap to close."
    shares = []
    for method in pipeline.methods:
        share = _mean([pipeline.gap_closed(run.evaluation) for run in pipeline.runs_of(method)])
        text = f"{method} {share:.1f} %" if math.isfinite(share) else f"{method} diverged"
        differences = [-100 * one / pipeline.gap for one in pipeline.differences(method).values()]
        if differences and math.isfinite(share):
            difference = Statistic.of(differences)
            interval = "" if difference.interval is None else f" ± {spread_text(difference.interval, 1)}"
            verdict = ", not significant" if difference.holds_zero else ""
            text += f" ({difference.mean:+.1f}{interval}{verdict})"
        shares.append(text)
    counts = {len(pipeline.runs_of(method)) for method in pipeline.methods}
    spread = "one seed" if counts == {1} else "± 95 % interval"
    return f"Gap to the teacher closed (points against {BASELINE}, {spread}): {'; '.join(shares)}."


def spread_text(value: float, digits: int) -> str:
    """A spread as printed: one that is not zero never reads as zero."""
    least = 10.0**-digits
    return f"<{least:.{digits}f}" if value < least / 2 else f"{value:.{digits}f}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

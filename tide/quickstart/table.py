"""The quickstart's table: mean and spread over seeds per method, for the terminal and as Markdown.

Two runs of one seed see the same batches in the same order with the same noise, so most of the variation
between seeds is common to all methods. The paired difference to training without a teacher removes it, and is
the figure to read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from tide.quickstart.results import BASELINE, TIMESTEPS, Evaluation, Pipeline, Run

ABSENT = "-"


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (divisor n - 1) over `count` seeds; spread is None for one."""

    mean: float
    spread: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        if not values:
            raise ValueError(
                "Statistic.of: a mean needs at least one value; got none. Pass one value per seed."
            )
        mean = math.fsum(values) / len(values)
        if len(values) == 1:
            return cls(mean, None, 1)
        return cls(
            mean,
            math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)),
            len(values),
        )


@dataclass(frozen=True)
class Column:
    """One figure of the table: heading, unit, decimals shown, and which direction is better, where one is."""

    heading: str
    unit: str
    digits: int
    better: Literal["lower", "higher"] | None = None
    signed: bool = False

    def mean_text(self, statistic: Statistic | None) -> str:
        if statistic is None:
            return ABSENT
        mean = round(statistic.mean, self.digits) + 0.0  # -0.0 + 0.0 is 0.0: no "-0.0000" in the table
        return f"{mean:{'+' if self.signed else ''}.{self.digits}f}"

    def spread_text(self, statistic: Statistic | None) -> str:
        return (
            ABSENT if statistic is None or statistic.spread is None else f"{statistic.spread:.{self.digits}f}"
        )


COLUMNS: tuple[Column, ...] = (
    *(Column(f"t={t}", "nats/byte", 3, "lower") for t in TIMESTEPS),
    Column("mean", "nats/byte", 3, "lower"),
    Column(f"vs {BASELINE}", "nats/byte", 4, "lower", signed=True),
    Column("accuracy", "%", 1, "higher"),
    Column("time", "s", 0),
    Column("peak", "MiB", 0),
)


@dataclass(frozen=True)
class Row:
    """One line of the table. statistics: one per `COLUMNS`, None where there is none.

    reference: the teacher or the undistilled start, shown for comparison and never highlighted.
    """

    label: str
    statistics: tuple[Statistic | None, ...]
    reference: bool = False


def mean_nats_per_byte(evaluation: Evaluation) -> float:
    """Held-out loss, nats per byte, mean over `TIMESTEPS`."""
    return math.fsum(evaluation.nats_per_byte[t] for t in TIMESTEPS) / len(TIMESTEPS)


def paired_differences(pipeline: Pipeline, method: str) -> dict[int, float]:
    """Seed -> held-out loss of `method` minus that of training without a teacher, nats per byte, mean over t.

    Only seeds that both were run with; empty for the baseline itself. Negative: the teacher helped.
    """
    if method == BASELINE:
        return {}
    baseline = {run.seed: mean_nats_per_byte(run.evaluation) for run in pipeline.runs_of(BASELINE)}
    return {
        run.seed: mean_nats_per_byte(run.evaluation) - baseline[run.seed]
        for run in pipeline.runs_of(method)
        if run.seed in baseline
    }


def rows(pipeline: Pipeline) -> list[Row]:
    """The table's lines: teacher (if evaluated), undistilled start, then each method in running order."""
    lines = []
    if pipeline.teacher_evaluation is not None:
        lines.append(_reference_row("teacher", pipeline.teacher_evaluation))
    lines.append(_reference_row("start", pipeline.start_evaluation))
    return lines + [_method_row(pipeline, method) for method in pipeline.methods]


def best_rows(lines: Sequence[Row], column: int) -> set[int]:
    """Indices of the methods with the best mean in a column; empty where none is better or one method ran.

    Means are compared as shown, so two that print alike are both best.
    """
    better = COLUMNS[column].better
    shown = {
        index: float(COLUMNS[column].mean_text(line.statistics[column]))
        for index, line in enumerate(lines)
        if not line.reference and line.statistics[column] is not None
    }
    compared = {index: value for index, value in shown.items() if not math.isnan(value)}
    # The baseline has no difference to itself, so there a single rival must still beat 0 to be worth marking.
    if COLUMNS[column].signed:
        compared = {index: value for index, value in compared.items() if value < 0}
    elif len(shown) < 2:
        return set()
    if better is None or not compared:
        return set()
    target = min(compared.values()) if better == "lower" else max(compared.values())
    return {index for index, value in compared.items() if value == target}


def has_spread(lines: Sequence[Row]) -> bool:
    """Whether any figure is a mean over several seeds; else every spread would be missing."""
    return any(figure is not None and figure.count > 1 for line in lines for figure in line.statistics)


def title(pipeline: Pipeline) -> str:
    """The pipeline in one line: its name, teacher and student, with their sizes."""
    return (
        f"{pipeline.name}: {pipeline.teacher.name} ({millions(pipeline.teacher.parameters)}) "
        f"teaches {pipeline.student.name} ({millions(pipeline.student.parameters)})"
    )


def seeds_note(pipeline: Pipeline) -> str:
    """How to read the spread of this pipeline's table."""
    counts = sorted({len(pipeline.runs_of(method)) for method in pipeline.methods})
    if not counts:
        return "no student was trained"
    if counts == [1]:
        return f"one seed per method, so no spread ({ABSENT})"
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"mean ± sample standard deviation over {number} seeds"


def millions(count: int) -> str:
    """A number of weights for people: 950k, 1.05M, 6.3M."""
    if count < 1_000_000:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.2f}M" if count < 2_000_000 else f"{count / 1e6:.1f}M"


def rich_table(pipeline: Pipeline) -> Table:
    """The table for a terminal, within 100 columns: the spread stands under its mean."""
    table = Table(
        title=title(pipeline),
        caption=f"Held-out loss and accuracy: {seeds_note(pipeline)}.\nBold: best method.",
        box=box.SIMPLE_HEAD,
        title_style="bold",
        caption_style="dim",
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for column in COLUMNS:
        # "nats/byte" in five headings would pass 100 columns.
        unit = column.unit.replace("nats/byte", "nats/B")
        table.add_column(f"{column.heading}\n{unit}", justify="right", no_wrap=True)
    lines = rows(pipeline)
    best = [best_rows(lines, index) for index in range(len(COLUMNS))]
    several = has_spread(lines)
    for number, line in enumerate(lines):
        cells: list[Text] = [Text(line.label, style="dim italic" if line.reference else "")]
        for index, (column, statistic) in enumerate(zip(COLUMNS, line.statistics, strict=True)):
            cell = Text(column.mean_text(statistic), style="dim" if line.reference else "")
            if number in best[index]:
                cell.stylize("bold green")
            if several and not line.reference and statistic is not None:
                spread = column.spread_text(statistic)
                cell.append(f"\n{spread if spread == ABSENT else '±' + spread}", style="not bold dim")
            cells.append(cell)
        last_reference = line.reference and not lines[min(number + 1, len(lines) - 1)].reference
        table.add_row(*cells, end_section=last_reference)
    return table


def markdown_table(pipeline: Pipeline) -> str:
    """The same rows as Markdown, ending in a newline; best method bold, references in italics."""
    head = ["method", *(f"{column.heading} ({column.unit})" for column in COLUMNS)]
    lines = rows(pipeline)
    best = [best_rows(lines, index) for index in range(len(COLUMNS))]
    out = [head, [":--", *("--:" for _ in COLUMNS)]]
    for number, line in enumerate(lines):
        cells = [f"*{line.label}*" if line.reference else f"`{line.label}`"]
        for index, (column, statistic) in enumerate(zip(COLUMNS, line.statistics, strict=True)):
            mean = column.mean_text(statistic)
            mean = f"**{mean}**" if number in best[index] else mean
            cells.append(
                mean if line.reference or statistic is None else f"{mean} ± {column.spread_text(statistic)}"
            )
        out.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in out)


def _reference_row(label: str, evaluation: Evaluation) -> Row:
    figures = [*_held_out(evaluation), None, _accuracy(evaluation), None, None]
    statistics = tuple(None if figure is None else Statistic.of([figure]) for figure in figures)
    return Row(label, statistics, reference=True)


def _method_row(pipeline: Pipeline, method: str) -> Row:
    runs = pipeline.runs_of(method)
    differences = list(paired_differences(pipeline, method).values())

    def over_runs(figure: Callable[[Run], float]) -> Statistic:
        return Statistic.of([figure(run) for run in runs])

    held_out = list(zip(*(_held_out(run.evaluation) for run in runs), strict=True))
    return Row(
        method,
        (
            *(Statistic.of(values) for values in held_out),
            Statistic.of(differences) if differences else None,
            over_runs(lambda run: _accuracy(run.evaluation)),
            over_runs(lambda run: run.seconds),
            over_runs(lambda run: run.peak_memory_mib),
        ),
    )


def _held_out(evaluation: Evaluation) -> list[float]:
    return [*(evaluation.nats_per_byte[t] for t in TIMESTEPS), mean_nats_per_byte(evaluation)]


def _accuracy(evaluation: Evaluation) -> float:
    return 100.0 * math.fsum(evaluation.accuracy[t] for t in TIMESTEPS) / len(TIMESTEPS)

"""The table of a pipeline: one model for the terminal, the report and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from examples.quickstart.results import BASELINE, LONGER, Evaluation, Pipeline, Statistic, spread_text
from tide.evaluation import TIMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from examples.quickstart.results import Run

ABSENT = "-"
NOT_SIGNIFICANT = "n.s."


class Column(NamedTuple):
    """A figure of the table.

    Attributes:
        better: the direction to mark, if there is one.
        paired: a difference by seed, with its sign and the 95 % interval of its mean.
        is_detail: left out of the terminal.
    """

    heading: str
    unit: str
    digits: int
    better: Literal["lower", "higher"] | None = None
    paired: bool = False
    is_detail: bool = False

    def text(self, value: float) -> str:
        """The value as printed."""
        value = round(value, self.digits) + 0.0  # -0.0 + 0.0 is 0.0: no "-0.0000" in the table
        return f"{value:{'+' if self.paired else ''}.{self.digits}f}"


COLUMNS = (
    Column("gap closed", "%", 1, "higher"),
    Column("bound", "nats/byte", 3, "lower"),
    *(Column(f"t={t:g}", "nats/byte", 3, "lower", is_detail=True) for t in TIMES),
    *(Column(f"vs {name}", "nats/byte", 4, paired=True) for name in (BASELINE, LONGER)),
    Column("accuracy", "%", 1, "higher"),
    Column("time", "s", 0),
    Column("peak", "MiB", 0, is_detail=True),
)


class Cell(NamedTuple):
    """A mean, its spread or interval ("" for one value), a note, and whether it is the column's best."""

    mean: str
    spread: str = ""
    note: str = ""
    best: bool = False


class Line(NamedTuple):
    """A line of the table, a cell for each of `COLUMNS`; the teacher and the start are references."""

    label: str
    cells: list[Cell]
    is_reference: bool


def table(pipeline: Pipeline) -> list[Line]:
    """The teacher, the undistilled start, then every method; the best method of a column is marked."""
    references = {"teacher": pipeline.teacher, "start": pipeline.student}
    values = {label: _values(pipeline, [model.evaluation]) for label, model in references.items()}
    for method in pipeline.methods:
        runs = pipeline.runs_of(method)
        differences = [pipeline.differences(method, other).values() for other in (BASELINE, LONGER)]
        values[method] = _values(pipeline, [run.evaluation for run in runs], differences, runs)
    lines = {label: list(map(_cell, COLUMNS, cells)) for label, cells in values.items()}
    for at, column in enumerate(COLUMNS):
        methods = {label: cells[at].mean for label, cells in lines.items() if label not in references}
        if (best := _best(column, methods)) is not None:
            lines[best][at] = lines[best][at]._replace(best=True)
    return [Line(label, cells, label in references) for label, cells in lines.items()]


def title(pipeline: Pipeline) -> str:
    """The pipeline in one line."""
    teacher, student = (
        f"{model.name} ({millions(model.parameters)})" for model in (pipeline.teacher, pipeline.student)
    )
    return f"{pipeline.name}: {teacher} teaches {student}"


def caption(pipeline: Pipeline) -> str:
    """How to read the table."""
    counts = sorted({len(pipeline.runs_of(method)) for method in pipeline.methods})
    if counts in ([], [1]):
        return "One seed, so no difference has an interval. Bold: best method."
    seeds = "-".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    return (
        f"Mean ± standard deviation over {seeds} seeds; of differences, which are paired by seed, the 95 % "
        f"interval. {NOT_SIGNIFICANT}: not significant, zero is inside. Bold: best method."
    )


def millions(count: int) -> str:
    """A number of weights for people: 950k, 1.05M, 6.3M."""
    if count < 1_000_000:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.2f}M" if count < 2_000_000 else f"{count / 1e6:.1f}M"


def rich_table(pipeline: Pipeline) -> RichTable:
    """The table for a terminal, within 80 columns: spread and note stand under their mean."""
    shown = RichTable(
        title=title(pipeline),
        caption=caption(pipeline),
        box=box.SIMPLE_HEAD,
        title_style="bold",
        caption_style="dim",
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    shown.add_column("method", no_wrap=True)
    in_terminal = [at for at, column in enumerate(COLUMNS) if not column.is_detail]
    for column in (COLUMNS[at] for at in in_terminal):
        heading, unit = column.heading.replace(" ", "\n", 1), column.unit.replace("nats/byte", "nats/B")
        shown.add_column(f"{heading}\n{unit}", justify="right", no_wrap=True)
    for line in table(pipeline):
        cells = [Text(line.label, style="dim italic" if line.is_reference else "")]
        for cell in (line.cells[at] for at in in_terminal):
            text = Text(cell.mean, "bold green" if cell.best else "dim" if line.is_reference else "")
            under = [f"±{cell.spread}"] * bool(cell.spread) + [cell.note] * bool(cell.note)
            cells.append(text.append("".join(f"\n{part}" for part in under), "dim"))
        shown.add_row(*cells, end_section=line.label == "start")
    return shown


def _values(
    pipeline: Pipeline,
    evaluations: Sequence[Evaluation],
    differences: Iterable[Iterable[float]] = ((), ()),
    runs: Sequence[Run] = (),
) -> list[list[float]]:
    """For each column, a value per seed; none where there is none."""
    return [
        list(map(pipeline.gap_closed, evaluations)),
        [one.loss for one in evaluations],
        *([one.nats_per_byte[t] for one in evaluations] for t in TIMES),
        *map(list, differences),
        [one.percent_right for one in evaluations],
        [run.seconds for run in runs],
        [run.peak_memory_mib for run in runs],
    ]


def _cell(column: Column, values: list[float]) -> Cell:
    if not values:
        return Cell(ABSENT)
    statistic = Statistic.of(values)
    spread = statistic.interval if column.paired else statistic.spread
    note = NOT_SIGNIFICANT if column.paired and statistic.holds_zero else ""
    return Cell(
        column.text(statistic.mean), "" if spread is None else spread_text(spread, column.digits), note
    )


def _best(column: Column, means: dict[str, str]) -> str | None:
    """The method with the best mean as printed; none where two print alike."""
    values = {method: float(mean) for method, mean in means.items() if mean not in (ABSENT, "nan")}
    if column.better is None or not values or len(means) < 2:
        return None
    best = (min if column.better == "lower" else max)(values.values())
    methods = [method for method, value in values.items() if value == best]
    return methods[0] if len(methods) == 1 else None

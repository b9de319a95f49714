"""The table of a pipeline: one model for the terminal, the report and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from examples.quickstart.results import BASELINE, Evaluation, Pipeline, Statistic
from tide.evaluation import TIMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from examples.quickstart.results import Run

ABSENT = "-"


class Column(NamedTuple):
    """A figure of the table; `better` is the direction to mark, if there is one."""

    heading: str
    unit: str
    digits: int
    better: Literal["lower", "higher"] | None = None
    signed: bool = False

    def text(self, value: float) -> str:
        """The value as printed."""
        value = round(value, self.digits) + 0.0  # -0.0 + 0.0 is 0.0: no "-0.0000" in the table
        return f"{value:{'+' if self.signed else ''}.{self.digits}f}"


COLUMNS = (
    *(Column(f"t={t:g}", "nats/byte", 3, "lower") for t in TIMES),
    Column("mean", "nats/byte", 3, "lower"),
    Column(f"vs {BASELINE}", "nats/byte", 4, "lower", signed=True),
    Column("accuracy", "%", 1, "higher"),
    Column("time", "s", 0),
    Column("peak", "MiB", 0),
)


class Cell(NamedTuple):
    """A mean, its spread over seeds ("" for one value), and whether it is the best of its column."""

    mean: str
    spread: str = ""
    best: bool = False


class Line(NamedTuple):
    """A line of the table, a cell for each of `COLUMNS`; the teacher and the start are references."""

    label: str
    cells: list[Cell]
    is_reference: bool


def table(pipeline: Pipeline) -> list[Line]:
    """The teacher, the undistilled start, then every method; the best method of a column is marked."""
    references = {"teacher": pipeline.teacher, "start": pipeline.student}
    values = {label: _values([model.evaluation]) for label, model in references.items()}
    for method in pipeline.methods:
        runs = pipeline.runs_of(method)
        evaluations = [run.evaluation for run in runs]
        values[method] = _values(evaluations, pipeline.differences(method).values(), runs)
    lines = {label: list(map(_cell, COLUMNS, cells)) for label, cells in values.items()}
    for at, column in enumerate(COLUMNS):
        methods = {label: cells[at].mean for label, cells in lines.items() if label not in references}
        for label in _best(column, methods):
            lines[label][at] = lines[label][at]._replace(best=True)
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
        return "Held-out loss and accuracy of one seed. Bold: best method."
    seeds = "-".join(map(str, dict.fromkeys([counts[0], counts[-1]])))
    return f"Held-out loss and accuracy: mean ± standard deviation over {seeds} seeds. Bold: best method."


def millions(count: int) -> str:
    """A number of weights for people: 950k, 1.05M, 6.3M."""
    if count < 1_000_000:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.2f}M" if count < 2_000_000 else f"{count / 1e6:.1f}M"


def rich_table(pipeline: Pipeline) -> RichTable:
    """The table for a terminal, within 100 columns: the spread stands under its mean."""
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
    for column in COLUMNS:
        unit = column.unit.replace("nats/byte", "nats/B")  # Five times "nats/byte" would pass 100 columns.
        shown.add_column(f"{column.heading}\n{unit}", justify="right", no_wrap=True)
    for line in table(pipeline):
        cells = [Text(line.label, style="dim italic" if line.is_reference else "")]
        for cell in line.cells:
            style = "bold green" if cell.best else "dim" if line.is_reference else ""
            text = Text().append(cell.mean, style)
            cells.append(text.append(f"\n±{cell.spread}", "dim") if cell.spread else text)
        shown.add_row(*cells, end_section=line.label == "start")
    return shown


def _values(
    evaluations: Sequence[Evaluation], differences: Iterable[float] = (), runs: Sequence[Run] = ()
) -> list[list[float]]:
    """For each column, a value per seed; none where there is none."""
    return [
        *([one.nats_per_byte[t] for one in evaluations] for t in TIMES),
        [one.loss for one in evaluations],
        list(differences),
        [one.percent_right for one in evaluations],
        [run.seconds for run in runs],
        [run.peak_memory_mib for run in runs],
    ]


def _cell(column: Column, values: list[float]) -> Cell:
    if not values:
        return Cell(ABSENT)
    mean, spread = Statistic.of(values)
    return Cell(column.text(mean), "" if spread is None else f"{spread:.{column.digits}f}")


def _best(column: Column, means: dict[str, str]) -> list[str]:
    """The methods with the best mean as printed: two that print alike are both best."""
    values = {method: float(mean) for method, mean in means.items() if mean not in (ABSENT, "nan")}
    if column.signed:  # The baseline has no difference to itself; a rival must beat 0.
        values = {method: value for method, value in values.items() if value < 0}
    if column.better is None or not values or (len(means) < 2 and not column.signed):
        return []
    best = (min if column.better == "lower" else max)(values.values())
    return [method for method, value in values.items() if value == best]

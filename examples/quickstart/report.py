"""The report: one HTML file with styles and images inside, the figures as PNG, and the tables as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.quickstart.results import BASELINE, LONGER, Pipeline, Results, finding
from examples.quickstart.table import ABSENT, COLUMNS, caption, millions, table, title
from tide.inspection.page import render
from tide.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tide.config import ObjectiveConfig

TEMPLATES = Path(__file__).parent / "templates"
CAVEAT = (
    "These are models of a few million parameters, trained for minutes. They show that the flow works, not "
    "which method to choose."
)


def write_report(results: Results, objective: ObjectiveConfig, directory: Path) -> Path:
    """Write report.html, tables.md and every figure to `directory`; return the report's path.

    Without matplotlib the report says what to install for its figures.
    """
    directory.mkdir(parents=True, exist_ok=True)
    images, missing = {}, ""
    try:
        from examples.quickstart.figures import figures
        from tide.inspection.figures import DARK, png
    except ImportError as error:
        if error.name != "matplotlib":
            raise
        missing = str(error)
    else:
        light, dark = figures(results, objective), figures(results, objective, DARK)
        for name, figure in light.items():
            images[name] = png(figure), png(dark[name])
            (directory / f"{name}.png").write_bytes(images[name][0])
    tables = [(title(one), table(one), caption(one)) for one in results.pipelines]
    markdown = render("tables.md", folder=TEMPLATES, tables=tables, columns=COLUMNS)
    (directory / "tables.md").write_text(markdown, encoding="utf-8")
    report = directory / "report.html"
    report.write_text(render_report(results, images, missing), encoding="utf-8")
    return report


def render_report(results: Results, images: Mapping[str, tuple[bytes, bytes]], missing: str = "") -> str:
    """The page.

    Args:
        results: to report.
        images: name of a figure -> PNG for a light and for a dark page.
        missing: the reason for missing figures.
    """
    runs = [run for pipeline in results.pipelines for run in pipeline.runs]
    minutes, seconds = divmod(round(sum(run.seconds for run in runs)), 60)
    present = dict.fromkeys(run.method for run in runs if run.method != LONGER)
    return render(
        "report.html",
        folder=TEMPLATES,
        kicker="TIDE quickstart",
        title="Distilling diffusion language models on real code",
        tiles={
            "students trained": str(len(runs)),
            "seeds": str(len({run.seed for run in runs})),
            "training time, summed over runs": f"{minutes} min {seconds} s" if minutes else f"{seconds} s",
            "peak memory": f"{max(run.peak_memory_mib for run in runs):.0f} MiB" if runs else ABSENT,
        },
        findings={pipeline.name: finding(pipeline) for pipeline in results.pipelines},
        caveat=CAVEAT,
        missing=missing,
        images=images,
        pipelines=list(map(_pipeline, results.pipelines)),
        columns=COLUMNS,
        baseline=BASELINE,
        longer=LONGER,
        methods={method: METHODS[method].summary for method in present},
        settings=results.settings,
        recipes=results.recipes,
        environment=results.environment,
    )


def _pipeline(pipeline: Pipeline) -> dict[str, Any]:
    """Values of the template's section on one pipeline."""
    models = {
        role: (model.name, f"{millions(model.parameters)} parameters, vocabulary {model.vocabulary_size:,}")
        for role, model in (("teacher", pipeline.teacher), ("student", pipeline.student))
    }
    runs: list[tuple[str, ...]] = []
    completed = [("teacher", written) for written in pipeline.completions]
    for method in pipeline.methods:
        differences = pipeline.differences(method)
        for run in pipeline.runs_of(method):
            difference = f"{differences[run.seed]:+.4f}" if run.seed in differences else ABSENT
            figures = (f"{run.tokens_per_second:.0f}", f"{run.seconds:.1f}", f"{run.peak_memory_mib:.0f}")
            loss = f"{run.evaluation.loss:.4f}"
            runs.append((method, str(run.seed), str(run.steps), loss, difference, *figures))
            completed += [(method, written) for written in run.completions]
    completions: dict[str, list[tuple[str, str]]] = {}
    for name, written in completed:
        panes = completions.setdefault(written.prompt, [("reference", written.reference)])
        panes.append((name, written.completion))
    return {
        "name": pipeline.name,
        "slug": pipeline.slug,
        "models": models,
        "table": table(pipeline),
        "caption": caption(pipeline),
        "runs": runs,
        "completions": completions,
    }

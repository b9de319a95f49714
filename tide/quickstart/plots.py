"""The quickstart's figures: learning curves, differences to training without a teacher, and lambda(t, p).

Each has a light and a dark form, so that the report can show the one its reader prefers; files on disk are
light.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tide.presentation.figures import (
    LABEL_SIZE,
    LIGHT,
    TICK_SIZE,
    Theme,
    add_legend,
    new_figure,
    png,
    style_axes,
)
from tide.quickstart.curves import lambda_grid, mean_curve, smoothed
from tide.quickstart.results import BASELINE, HeatMap, Pipeline, Results, Run
from tide.quickstart.table import mean_nats_per_byte, paired_differences

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from tide.quickstart.curves import Points, Schedule


# Method -> (index into Theme.lines, marker, dashes). kl and calm share a colour, and so do the two TIDE
# methods: they are counterparts in different pipelines.
METHOD_STYLES = {
    "none": (0, "s", "--"),
    "kl": (1, "^", "-"),
    "calm": (1, "^", "-"),
    "tide_shared": (2, "o", "-"),
    "tide_cross": (2, "o", "-"),
    "reverse_kl": (3, "v", "-."),
    "taid": (4, "D", "-"),
    "tidal": (5, "P", "-"),
}


def figures(results: Results, theme: Theme = LIGHT) -> dict[str, Figure]:
    """Every figure of the report by name: "differences", "curves-<slug>" per pipeline, "lambda".

    "differences" and a pipeline's curves are left out where nothing was measured for them.
    """
    made = {}
    if any(paired_differences(pipeline, m) for pipeline in results.pipelines for m in pipeline.methods):
        made["differences"] = difference_figure(results.pipelines, theme)
    for pipeline in results.pipelines:
        if any(run.curve or run.held_out_curve for run in pipeline.runs):
            made[f"curves-{pipeline.slug}"] = training_figure(pipeline, theme)
    made["lambda"] = lambda_figure(results.heat_map, theme=theme)
    return made


def save_plots(results: Results, directory: str | Path) -> list[Path]:
    """Writes every figure as <directory>/<name>.png, light theme, and returns the paths."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures(results).items():
        paths.append(directory / f"{name}.png")
        paths[-1].write_bytes(png(figure))
    return paths


def training_figure(pipeline: Pipeline, theme: Theme = LIGHT) -> Figure:
    """Learning curves: held-out loss, the training term that all methods share, and the methods' own terms.

    Thin lines are seeds, thick lines their mean. Training terms are noisy, so their mean is smoothed. The
    shared term hardly differs between methods: there a later method's line is narrower, and on the others.
    """
    shared, own = pipeline.shared_term(), pipeline.own_terms()
    widths = [1.15] + [1.0] * ((shared is not None) + bool(own))
    figure = new_figure(3.6 * sum(widths), 4.0, f"Learning curves, {pipeline.name}", theme)
    panels = list(figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0])
    _held_out_panel(panels[0], pipeline, theme)
    if shared is not None:
        style_axes(panels[1], theme, "On training batches", "step", f"{_spoken(shared)} (nats)")
        same_term = [(method, shared) for method in pipeline.methods]
        _draw_noisy(panels[1], pipeline, same_term, theme, nested=True)
    if own:
        style_axes(panels[-1], theme, "What the teacher adds", "step", "distillation term (nats)")
        _draw_noisy(panels[-1], pipeline, own, theme)
        add_legend(panels[-1], theme)
    return figure


def difference_figure(pipelines: Sequence[Pipeline], theme: Theme = LIGHT) -> Figure:
    """Held-out loss of each method minus that of training without a teacher: seeds, mean and spread."""
    shown = [
        (p, methods) for p in pipelines if (methods := [m for m in p.methods if paired_differences(p, m)])
    ]
    if not shown:
        raise ValueError(
            f"difference_figure: no method shares a seed with {BASELINE!r} in {len(pipelines)} pipelines. "
            f"Run {BASELINE!r} with the same seeds as the methods."
        )
    height = 1.6 + 0.62 * max(len(methods) for _, methods in shown)
    heading = f"Held-out loss against {BASELINE}, paired by seed"
    figure = new_figure(max(5.2 * len(shown), 6.0), height, heading, theme)
    panels = list(figure.subplots(1, len(shown), sharex=True, squeeze=False)[0])
    for axes, (pipeline, methods) in zip(panels, shown, strict=True):
        style_axes(axes, theme, pipeline.name, "", "")
        axes.grid(visible=False, axis="y")
        for place, method in enumerate(methods):
            _draw_difference(axes, list(paired_differences(pipeline, method).values()), method, place, theme)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.45, -0.95)
        axes.axvline(0, color=theme.muted, linewidth=1.2)
        axes.tick_params(axis="y", length=0, labelsize=LABEL_SIZE, labelcolor=theme.ink)
    several = any(len(paired_differences(p, method)) > 1 for p, methods in shown for method in methods)
    figure.supxlabel(
        f"difference to {BASELINE} (nats/byte, mean over t)"
        + ("; line: ± standard deviation, dots: seeds" if several else ""),
        color=theme.ink,
        fontsize=LABEL_SIZE,
    )
    reach = 1.12 * max(abs(bound) for axes in panels for bound in axes.get_xlim())
    panels[0].set_xlim(-reach, reach)
    panels[0].locator_params(axis="x", nbins=6)
    for axes, (pipeline, methods) in zip(panels, shown, strict=True):
        for place, method in enumerate(methods):
            values = list(paired_differences(pipeline, method).values())
            _label_difference(axes, math.fsum(values) / len(values), method, place, theme)
        axes.axvspan(-reach, 0, color=theme.better, zorder=0, linewidth=0)
        for x, side, word in ((0.02, "left", "better"), (0.98, "right", "worse")):
            text = axes.text(x, 0.97, word, transform=axes.transAxes, ha=side, va="top")
            text.set(color=theme.muted, fontsize=TICK_SIZE, style="italic")
    return figure


def lambda_figure(
    settings: HeatMap, schedule: Schedule | Float[np.ndarray, "T P"] | None = None, theme: Theme = LIGHT
) -> Figure:
    """Heat map of lambda(t, p), the teacher's share in the interpolated target.

    Args:
        settings: what the title states, and the schedule drawn where none is given.
        schedule: (t of [T], progress p) -> lambda of [T]; or its values on even grids of t and p over [0, 1].
        theme: colours.
    """
    values = schedule if isinstance(schedule, np.ndarray) else lambda_grid(settings, schedule)
    heading = (
        f"TIDAL target: $\\lambda(t, p)$, {settings.decay} from {settings.lambda_init:g} to "
        f"{settings.lambda_max:g}, axis: {settings.axis}"
    )
    figure = new_figure(7.6, 4.3, heading, theme)
    axes = figure.subplots()
    style_axes(axes, theme, "", "training progress p", "diffusion time t (1: all masked)")
    axes.grid(visible=False)
    image = axes.imshow(
        values, origin="lower", extent=(0, 1, 0, 1), aspect="auto", cmap="cividis", vmin=0, vmax=1
    )
    image.set_interpolation("bilinear")
    levels = [level for level in np.arange(0.1, 1.0, 0.1) if values.min() < level < values.max()]
    if levels:
        grid_t, grid_p = np.linspace(0, 1, values.shape[0]), np.linspace(0, 1, values.shape[1])
        # White on the dark half of the map, black on the light half: 4.5:1 or better on either.
        inks = ["#ffffff" if level < 0.45 else "#101418" for level in levels]
        lines = axes.contour(grid_p, grid_t, values, levels=levels, colors=inks, linewidths=0.9)
        axes.clabel(lines, fmt="%.1f", fontsize=TICK_SIZE)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=24)
    bar.set_label("$\\lambda$: the teacher's share in the target", color=theme.ink, fontsize=LABEL_SIZE)
    bar.ax.tick_params(colors=theme.muted, labelsize=TICK_SIZE, length=3)
    bar.ax.spines[:].set_visible(False)
    return figure


def _held_out_panel(axes: Axes, pipeline: Pipeline, theme: Theme) -> None:
    style_axes(axes, theme, "On held-out code", "step", "loss (nats/byte, mean over t)")
    for method in pipeline.methods:
        seeds = [run.held_out_curve for run in pipeline.runs_of(method)]
        colour, marker, dashes = _method_style(method, theme)
        for points in seeds if len(seeds) > 1 else []:
            axes.plot(*_columns(points), color=colour, linewidth=0.8, alpha=0.4)
        (line,) = axes.plot(*_columns(mean_curve(seeds)), label=method, color=colour, linewidth=2.0)
        line.set(linestyle=dashes, marker=marker, markersize=4.5)
    _mark_teacher(axes, pipeline, theme)
    add_legend(axes, theme)


def _mark_teacher(axes: Axes, pipeline: Pipeline, theme: Theme) -> None:
    """The teacher's loss: a line where it fits the panel, else a note at the lower edge."""
    if pipeline.teacher_evaluation is None or not _on_one_scale(pipeline.runs):
        return
    teacher = mean_nats_per_byte(pipeline.teacher_evaluation)
    low, high = axes.get_ylim()
    if not teacher <= high:
        return
    # Reaching far down for the teacher would flatten the differences between methods, which the panel is for.
    inside = teacher >= low - 0.3 * (high - low)
    if inside:
        axes.axhline(teacher, color=theme.muted, linewidth=1.2, linestyle=(0, (1, 2)))
    else:  # Room below every curve for the note.
        low -= 0.1 * (high - low)
        axes.set_ylim(low, high)
    height = teacher if inside else low + 0.01 * (high - low)
    words = f"teacher: {teacher:.3f}" + ("" if inside else ", further down")
    text = axes.text(0.02, height, words, transform=axes.get_yaxis_transform(), ha="left", va="bottom")
    text.set(color=theme.muted, fontsize=TICK_SIZE, style="italic")


def _on_one_scale(runs: Sequence[Run]) -> bool:
    """Whether the curves end at the final evaluations (to 1 %), so that the teacher's fits beside them."""
    return all(
        math.isclose(run.held_out_curve[-1][1], mean_nats_per_byte(run.evaluation), rel_tol=0.01)
        for run in runs
        if run.held_out_curve
    )


def _draw_noisy(
    axes: Axes,
    pipeline: Pipeline,
    terms: Sequence[tuple[str, str]],
    theme: Theme,
    *,
    nested: bool = False,
) -> None:
    """Draws (method, term) curves: seeds thin, their smoothed mean thick, labelled by the term's name.

    nested: each mean narrower than the one before, so that all show where they coincide.
    """
    kept: list[float] = []
    for number, (method, term) in enumerate(terms):
        colour, _, dashes = _method_style(method, theme)
        # A method with several terms draws them all in its colour: the dashes tell them apart.
        repeated = sum(1 for other, _ in terms[:number] if other == method)
        seeds = [run.term_curve(term) for run in pipeline.runs_of(method)]
        for points in seeds:
            axes.plot(*_columns(points), color=colour, linewidth=0.6, alpha=0.16)
        steps, values = _columns(mean_curve(seeds))
        mean = smoothed(values, window=len(values) // 12)
        (line,) = axes.plot(steps, mean, label=_spoken(term), color=colour, linewidth=2.0)
        line.set(linestyle=(":", "-.")[repeated % 2] if repeated else dashes)
        if nested:
            line.set(linewidth=1.4 + 1.8 * (len(terms) - 1 - number), linestyle="-")
        raw = [value for points in seeds for _, value in points if math.isfinite(value)]
        kept += [*mean[np.isfinite(mean)], *(np.quantile(raw, [0.03, 0.97]) if raw else [])]
    # A batch of few masked tokens has a weight of 1/t: single outliers would set the scale of the panel.
    if kept and max(kept) > min(kept):
        margin = 0.08 * (max(kept) - min(kept))
        axes.set_ylim(min(kept) - margin, max(kept) + margin)


def _draw_difference(axes: Axes, values: list[float], method: str, place: int, theme: Theme) -> None:
    colour, marker, _ = _method_style(method, theme)
    mean = math.fsum(values) / len(values)
    if not math.isfinite(mean):
        axes.text(0, place, " diverged", ha="left", va="center", color=colour, fontsize=LABEL_SIZE)
        return
    if len(values) > 1:
        spread = float(np.std(values, ddof=1))
        axes.plot([mean - spread, mean + spread], [place, place], color=colour, linewidth=2.4, alpha=0.6)
        axes.plot(values, [place + 0.24] * len(values), "o", markersize=4.0, color=colour, alpha=0.7, mew=0)
    axes.plot([mean], [place], marker, markersize=9, color=colour, markeredgecolor=theme.background)


def _label_difference(axes: Axes, mean: float, method: str, place: int, theme: Theme) -> None:
    """The mean in digits above its marker; near zero beside the zero line, and not across it."""
    if not math.isfinite(mean):
        return
    colour, _, _ = _method_style(method, theme)
    mean = round(mean, 4) + 0.0  # The digits shown, and no "−0.0000".
    words = f"{mean:+.4f}".replace("-", "\N{MINUS SIGN}")
    # The words are about a quarter of half the panel wide.
    near, better = abs(mean) < 0.2 * axes.get_xlim()[1], mean < 0
    axes.annotate(
        words,
        (0.0 if near else mean, place),
        xytext=((-5 if better else 5) if near else 0, 7),
        textcoords="offset points",
        ha=("right" if better else "left") if near else "center",
        va="bottom",
        fontsize=LABEL_SIZE,
        weight="bold",
        color=colour,
    )


def _method_style(method: str, theme: Theme) -> tuple[str, str, str]:
    """Colour, marker and dashes of a method; one that `METHOD_STYLES` does not name is muted and dotted."""
    if method not in METHOD_STYLES:
        return theme.muted, "X", ":"
    index, marker, dashes = METHOD_STYLES[method]
    return theme.lines[index], marker, dashes


def _columns(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]


def _spoken(term: str) -> str:
    return term.replace("_", " ")

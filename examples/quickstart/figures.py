"""The figures: differences to training without a teacher, learning curves, and lambda(t, p)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from examples.quickstart.results import BASELINE, LONGER, Statistic
from tide.inspection.figures import (
    LABEL_SIZE,
    LIGHT,
    TICK_SIZE,
    Theme,
    add_legend,
    new_figure,
    style_axes,
)
from tide.losses import lambda_schedule
from tide.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from examples.quickstart.results import Pipeline, Results
    from tide.config import ObjectiveConfig

    Points = Sequence[tuple[int, float]]

# Method -> (index into Theme.lines, marker, dashes). Counterparts in the two pipelines share a colour.
STYLES = {
    BASELINE: (0, "s", "--"),
    LONGER: (0, "s", "--"),
    "kl": (1, "^", "-"),
    "calm": (1, "^", "-"),
    "tide_shared": (2, "o", "-"),
    "tide_cross": (2, "o", "-"),
}
SHARED_TERM = "cross_entropy"  # every method trains on it, and hardly differs in it: not drawn


def figures(results: Results, objective: ObjectiveConfig, theme: Theme = LIGHT) -> dict[str, Figure]:
    """Every figure of the report by name: "differences", "curves-<slug>" per pipeline, "lambda" for TIDAL."""
    made = {}
    if any(pipeline.differences(m) for pipeline in results.pipelines for m in pipeline.methods):
        made["differences"] = difference_figure(results.pipelines, theme)
    for pipeline in results.pipelines:
        if pipeline.runs:
            made[f"curves-{pipeline.slug}"] = training_figure(pipeline, theme)
    methods = {method for pipeline in results.pipelines for method in pipeline.methods}
    if any("tidal" in METHODS[method].term for method in methods - {LONGER}):
        made["lambda"] = lambda_figure(objective, theme)
    return made


def difference_figure(pipelines: Sequence[Pipeline], theme: Theme = LIGHT) -> Figure:
    """Held-out loss of each method minus the baseline's: seeds, mean and its 95 % interval.

    Every panel has its own scale: differences across tokenizers are smaller than within one.
    """
    shown = [
        (one, methods) for one in pipelines if (methods := [m for m in one.methods if one.differences(m)])
    ]
    height = 1.6 + 0.62 * max(len(methods) for _, methods in shown)
    heading = f"Held-out loss against {BASELINE}, paired by seed"
    figure = new_figure(max(5.2 * len(shown), 6.0), height, heading, theme)
    panels = list(figure.subplots(1, len(shown), squeeze=False)[0])
    several = False
    for axes, (pipeline, methods) in zip(panels, shown, strict=True):
        style_axes(axes, theme, pipeline.name, "", "")
        axes.grid(visible=False, axis="y")
        for place, method in enumerate(methods):
            values = list(pipeline.differences(method).values())
            several |= len(values) > 1
            _draw_difference(axes, values, method, place, theme)
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.45, -0.95)
        axes.axvline(0, color=theme.muted, linewidth=1.2)
        axes.tick_params(axis="y", length=0, labelsize=LABEL_SIZE, labelcolor=theme.ink)
    spread = "; line: 95 % interval of the mean, dots: seeds" if several else ""
    label = f"difference to {BASELINE} (nats/byte, bound){spread}"
    figure.supxlabel(label, color=theme.ink, fontsize=LABEL_SIZE)
    for axes, (pipeline, methods) in zip(panels, shown, strict=True):
        reach = 1.12 * max(map(abs, axes.get_xlim()))
        axes.set_xlim(-reach, reach)
        axes.locator_params(axis="x", nbins=6)
        for place, method in enumerate(methods):
            mean = Statistic.of(list(pipeline.differences(method).values())).mean
            _label_difference(axes, mean, method, place, theme)
        axes.axvspan(-reach, 0, color=theme.better, zorder=0, linewidth=0)
        for x, side, word in ((0.02, "left", "better"), (0.98, "right", "worse")):
            text = axes.text(x, 0.97, word, transform=axes.transAxes, ha=side, va="top")
            text.set(color=theme.muted, fontsize=TICK_SIZE, style="italic")
    return figure


def training_figure(pipeline: Pipeline, theme: Theme = LIGHT) -> Figure:
    """Learning curves: held-out loss, and the methods' distillation terms.

    Thin lines are seeds, thick lines their mean, smoothed in training.
    """
    own = [(method, term) for method, term in pipeline.terms if term != SHARED_TERM]
    figure = new_figure(10.8 if own else 6.2, 4.0, f"Learning curves, {pipeline.name}", theme)
    panels = list(figure.subplots(1, 1 + bool(own), squeeze=False)[0])
    _held_out_panel(panels[0], pipeline, theme)
    if own:
        style_axes(
            panels[1], theme, "From the teacher, on training batches", "step", "distillation term (nats)"
        )
        _draw_terms(panels[1], pipeline, own, theme)
        add_legend(panels[1], theme)
    return figure


def lambda_figure(objective: ObjectiveConfig, theme: Theme = LIGHT) -> Figure:
    """Heat map of lambda(t, p), the teacher's share in the interpolated target."""
    low, high, decay = objective.lambda_init, objective.lambda_max, objective.lambda_decay
    heading = f"TIDAL target: $\\lambda(t, p)$, {decay} from {low:g} to {high:g}"
    figure = new_figure(7.6, 4.3, heading, theme)
    axes = figure.subplots()
    style_axes(axes, theme, "", "training progress p", "diffusion time t (1: all masked)")
    axes.grid(visible=False)
    values = lambda_grid(objective)
    image = axes.imshow(
        values, origin="lower", extent=(0, 1, 0, 1), aspect="auto", cmap="cividis", vmin=0, vmax=1
    )
    image.set_interpolation("bilinear")
    levels = [level for level in np.arange(0.1, 1.0, 0.1) if values.min() < level < values.max()]
    # White on the dark half of the map, black on the light half: 4.5:1 or better on either.
    inks = ["#ffffff" if level < 0.45 else "#101418" for level in levels]
    edge = np.linspace(0, 1, len(values))
    lines = axes.contour(edge, edge, values, levels=levels, colors=inks, linewidths=0.9)
    axes.clabel(lines, fmt="%.1f", fontsize=TICK_SIZE)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=24)
    bar.set_label("$\\lambda$: the teacher's share in the target", color=theme.ink, fontsize=LABEL_SIZE)
    bar.ax.tick_params(colors=theme.muted, labelsize=TICK_SIZE, length=3)
    bar.ax.spines[:].set_visible(False)
    return figure


def lambda_grid(objective: ObjectiveConfig, size: int = 101) -> Float[np.ndarray, "T P"]:
    """lambda on an even grid over [0, 1]: rows are diffusion times t, columns training progress p."""
    t = torch.linspace(0, 1, size)
    columns = [
        lambda_schedule(
            t,
            column / (size - 1),
            lambda_init=objective.lambda_init,
            lambda_max=objective.lambda_max,
            decay=objective.lambda_decay,
        )
        for column in range(size)
    ]
    values: Float[np.ndarray, "T P"] = torch.stack(columns, dim=1).double().numpy()
    return values


def mean_curve(seeds: Sequence[Points]) -> Points:
    """Mean over seeds at every step that all of them logged."""
    by_seed = [dict(points) for points in seeds if points]
    steps = sorted(set.intersection(*(set(points) for points in by_seed))) if by_seed else []
    return [(step, Statistic.of([points[step] for points in by_seed]).mean) for step in steps]


def smoothed(values: Sequence[float], window: int) -> Float[np.ndarray, " S"]:
    """Centred running mean; the window shrinks symmetrically towards both ends."""
    array = np.asarray(values, dtype=np.float64)
    reach = [min(max(window, 1) // 2, i, len(array) - 1 - i) for i in range(len(array))]
    return np.array([array[i - r : i + r + 1].mean() for i, r in enumerate(reach)])


def _held_out_panel(axes: Axes, pipeline: Pipeline, theme: Theme) -> None:
    style_axes(axes, theme, "On held-out code", "step", "loss (nats/byte, bound)")
    for method in (m for m in pipeline.methods if m != LONGER):  # its steps would squeeze the others
        seeds = [run.held_out_curve for run in pipeline.runs_of(method)]
        colour, marker, dashes = _style(method, theme)
        for points in seeds if len(seeds) > 1 else []:
            axes.plot(*_xy(points), color=colour, linewidth=0.8, alpha=0.4)
        (line,) = axes.plot(*_xy(mean_curve(seeds)), label=method, color=colour, linewidth=2.0)
        line.set(linestyle=dashes, marker=marker, markersize=4.5)
    teacher = pipeline.teacher.evaluation.loss
    low, high = axes.get_ylim()
    # A line where it fits; further down it would flatten the curves, so a note at the lower edge names it.
    fits = low - 0.3 * (high - low) <= teacher <= high
    if fits:
        axes.axhline(teacher, color=theme.muted, linewidth=1.2, linestyle=(0, (1, 2)))
    elif teacher < low:
        low -= 0.1 * (high - low)
        axes.set_ylim(low, high)
    if teacher <= high:
        height = teacher if fits else low + 0.01 * (high - low)
        words = f"teacher: {teacher:.3f}" + ("" if fits else ", further down")
        text = axes.text(0.02, height, words, transform=axes.get_yaxis_transform(), ha="left", va="bottom")
        text.set(color=theme.muted, fontsize=TICK_SIZE, style="italic")
    add_legend(axes, theme)


def _draw_terms(axes: Axes, pipeline: Pipeline, terms: Sequence[tuple[str, str]], theme: Theme) -> None:
    """Draw (method, term) curves: seeds thin, their smoothed mean thick and labelled."""
    kept: list[float] = []
    for method, term in terms:
        colour, _, dashes = _style(method, theme)
        seeds = [run.curves.get(term, []) for run in pipeline.runs_of(method)]
        for points in seeds:
            axes.plot(*_xy(points), color=colour, linewidth=0.6, alpha=0.16)
        steps, values = _xy(mean_curve(seeds))
        mean = smoothed(values, window=len(values) // 12)
        label = term.replace("_", " ")
        axes.plot(steps, mean, label=label, color=colour, linewidth=2.0, linestyle=dashes)
        raw = [value for points in seeds for _, value in points if math.isfinite(value)]
        kept += [*mean[np.isfinite(mean)], *(np.quantile(raw, [0.03, 0.97]) if raw else [])]
    # A batch of few masked tokens has a weight of 1/t: single outliers would set the scale of the panel.
    if kept and max(kept) > min(kept):
        margin = 0.08 * (max(kept) - min(kept))
        axes.set_ylim(min(kept) - margin, max(kept) + margin)


def _draw_difference(axes: Axes, values: list[float], method: str, place: int, theme: Theme) -> None:
    colour, marker, _ = _style(method, theme)
    mean, _, interval = Statistic.of(values)
    if not math.isfinite(mean):
        axes.text(0, place, " diverged", ha="left", va="center", color=colour, fontsize=LABEL_SIZE)
        return
    if interval is not None:
        axes.plot([mean - interval, mean + interval], [place, place], color=colour, linewidth=2.4, alpha=0.6)
        axes.plot(values, [place + 0.24] * len(values), "o", markersize=4.0, color=colour, alpha=0.7, mew=0)
    axes.plot([mean], [place], marker, markersize=9, color=colour, markeredgecolor=theme.background)


def _label_difference(axes: Axes, mean: float, method: str, place: int, theme: Theme) -> None:
    """Write the mean above its marker; near zero beside the zero line, not across it."""
    if not math.isfinite(mean):
        return
    mean = round(mean, 4) + 0.0  # No "−0.0000".
    near, better = abs(mean) < 0.2 * axes.get_xlim()[1], mean < 0  # The words take a quarter of half a panel.
    axes.annotate(
        f"{mean:+.4f}".replace("-", "\N{MINUS SIGN}"),
        (0.0 if near else mean, place),
        xytext=((-5 if better else 5) if near else 0, 7),
        textcoords="offset points",
        ha=("right" if better else "left") if near else "center",
        va="bottom",
        fontsize=LABEL_SIZE,
        weight="bold",
        color=_style(method, theme)[0],
    )


def _style(method: str, theme: Theme) -> tuple[str, str, str]:
    """Colour, marker and dashes."""
    index, marker, dashes = STYLES[method]
    return theme.lines[index], marker, dashes


def _xy(points: Points) -> tuple[list[int], list[float]]:
    return [step for step, _ in points], [value for _, value in points]

"""Plots: what the figures hold, that they are PNG, and that their colours can be told apart."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
import struct
import sys

import numpy as np
import pytest

from tests.quickstart.test_results import evaluation, example, pipeline, run
from tide.presentation.figures import DARK, DOTS_PER_INCH, LIGHT, Theme, png
from tide.quickstart import plots
from tide.quickstart.curves import lambda_grid, mean_curve, smoothed
from tide.quickstart.results import HeatMap, Results

# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency"
# (2009), severity 1, in linear sRGB.
VISION = {
    "full": np.eye(3),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


def linear_rgb(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE Lab (D65) of linear sRGB."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio."""
    light = sorted(float(linear_rgb(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_told_apart(theme: Theme) -> None:
    for name, matrix in VISION.items():
        for one, other in itertools.combinations(theme.lines, 2):
            distance = np.linalg.norm(lab(matrix @ linear_rgb(one)) - lab(matrix @ linear_rgb(other)))
            assert distance >= 10, (name, one, other)
    for colour in theme.lines:
        assert contrast(colour, theme.background) >= 3
    for colour in (theme.ink, theme.muted):
        assert contrast(colour, theme.background) >= 4.5


def test_every_figure_as_png(tmp_path) -> None:
    paths = plots.save_plots(example(), tmp_path / "plots")
    names = ["differences", "curves-same-tokenizer", "curves-cross-tokenizer", "lambda"]
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    for path, figure in zip(paths, plots.figures(example()).values(), strict=True):
        width, height = size(path.read_bytes())
        inches = figure.get_size_inches()
        assert (width, height) == tuple(int(edge * DOTS_PER_INCH) for edge in inches)
        assert 900 <= width <= 2000 and 300 <= height <= 1200


def test_png_is_the_same_for_the_same_results() -> None:
    first, second = (png(plots.difference_figure(example().pipelines)) for _ in range(2))
    assert first == second
    assert first != png(plots.difference_figure(example().pipelines, DARK))


def test_difference_figure_holds_seeds_means_and_spread() -> None:
    figure = plots.difference_figure([pipeline()])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["kl", "tide_shared"]
    drawn = [np.asarray(line.get_xdata(), dtype=float) for line in axes.lines]
    for expected in ([-0.1, -0.04, -0.06], [-0.2 / 3], [-0.2 / 3 - 0.0305505, -0.2 / 3 + 0.0305505], [0.05]):
        assert any(len(x) == len(expected) and np.allclose(x, expected, atol=1e-6) for x in drawn), expected
    assert "−0.0667" in [text.get_text() for text in axes.texts]
    low, high = axes.get_xlim()
    assert low < -0.1 and high == pytest.approx(-low)


@pytest.mark.parametrize(
    ("loss", "words", "side"),
    [
        (0.9996, "−0.0004", "right"),
        (1.0003, "+0.0003", "left"),
        (0.99999, "+0.0000", "left"),
        (0.5, "−0.5000", ""),
    ],
)
def test_no_label_of_a_difference_crosses_the_zero_line(loss: float, words: str, side: str) -> None:
    runs = [run("none", 0, 1.0), run("kl", 0, loss), run("tide_shared", 0, 1.1 if side else 0.9)]
    figure = plots.difference_figure([dataclasses.replace(pipeline(), runs=runs)])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (label,) = (text for text in axes.texts if text.get_text() == words)
    box, zero = label.get_window_extent(), axes.transData.transform((0, 0))[0]
    inside = axes.get_window_extent()
    assert not box.x0 < zero < box.x1
    assert inside.x0 <= box.x0 and box.x1 <= inside.x1
    assert label.get_ha() == (side or "center")


def test_difference_figure_without_a_baseline() -> None:
    alone = dataclasses.replace(pipeline(), runs=[run("kl", 0, 1.0)])
    with pytest.raises(ValueError, match="no method shares a seed with 'none'"):
        plots.difference_figure([alone])
    names = plots.figures(Results({}, {}, [alone]))
    assert list(names) == ["curves-same-tokenizer", "lambda"]


def test_training_figure_holds_each_seed_and_the_mean() -> None:
    held_out, training, own = plots.training_figure(pipeline()).axes
    curves = [list(line.get_ydata()) for line in held_out.lines]
    for expected in ([2.0, 0.9], [2.0, 1.16], [2.0, 1.04], [2.0, 3.1 / 3]):
        assert any(np.allclose(curve, expected) for curve in curves if len(curve) == 2), expected
    assert legend_of(held_out) == ["none", "kl", "tide_shared"]
    assert training.get_ylabel() == "cross entropy (nats)"
    assert any(np.allclose(line.get_ydata(), [3.0, 2.0, 1.0]) for line in training.lines)
    assert legend_of(own) == ["forward kl", "tidal"]
    assert any(np.allclose(line.get_ydata(), [0.0, 1.5, 3.0]) for line in own.lines)


def test_lines_that_coincide_all_show() -> None:
    """In the panel of the shared term a later line is narrower than those it may lie on."""
    runs = [dataclasses.replace(entry, curve=pipeline().runs[0].curve) for entry in pipeline(seeds=1).runs]
    training = plots.training_figure(dataclasses.replace(pipeline(), runs=runs)).axes[1]
    widths = [line.get_linewidth() for line in training.lines if line.get_label() == "cross entropy"]
    assert len(widths) == 3 and all(below >= above + 1.5 for below, above in itertools.pairwise(widths))


def test_legends_are_below_their_panels() -> None:
    figure = plots.training_figure(pipeline())
    figure.draw_without_rendering()
    for axes in (figure.axes[0], figure.axes[2]):
        box = axes.get_legend().get_window_extent()
        assert box.y1 < axes.xaxis.label.get_window_extent().y0, "under the axis' label, too"
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_one_seed_draws_one_line_per_method() -> None:
    alone = dataclasses.replace(pipeline(seeds=1), teacher_evaluation=None)
    held_out = plots.training_figure(alone).axes[0]
    assert [line.get_label() for line in held_out.lines] == ["none", "kl", "tide_shared"]
    (axes,) = plots.difference_figure([pipeline(seeds=1)]).axes
    assert sorted(float(line.get_xdata()[0]) for line in axes.lines) == pytest.approx([-0.1, 0.0, 0.05])


@pytest.mark.parametrize(
    ("teacher", "note"), [(0.85, "teacher: 0.850"), (0.2, "teacher: 0.200, further down"), (2.5, None)]
)
def test_the_teacher_is_marked_where_it_fits(teacher: float, note: str | None) -> None:
    shown = dataclasses.replace(pipeline(), teacher_evaluation=evaluation(teacher))
    held_out = plots.training_figure(shown).axes[0]
    assert [text.get_text() for text in held_out.texts] == ([note] if note else [])
    if note == "teacher: 0.200, further down":
        held_out.figure.draw_without_rendering()
        lowest = min(min(line.get_ydata()) for line in held_out.lines)
        bottom = held_out.transData.transform((0, lowest))[1]
        assert held_out.texts[0].get_window_extent().y1 < bottom, "under every curve"


def test_no_teacher_beside_curves_of_another_held_out_set() -> None:
    runs = [dataclasses.replace(entry, held_out_curve=[(0, 2.0), (20, 1.9)]) for entry in pipeline().runs]
    held_out = plots.training_figure(dataclasses.replace(pipeline(), runs=runs)).axes[0]
    assert list(held_out.texts) == []


def test_an_outlier_does_not_set_the_scale() -> None:
    noisy = run("none", 0, 1.0)
    points = [
        dataclasses.replace(noisy.curve[0], step=step, terms={"ce": 3 + step % 2}) for step in range(100)
    ]
    points[50] = dataclasses.replace(points[50], terms={"ce": 500.0})
    shown = dataclasses.replace(pipeline(), runs=[dataclasses.replace(noisy, curve=points)])
    assert plots.training_figure(shown).axes[1].get_ylim()[1] < 100


def test_diverged_runs_are_drawn_without_an_error() -> None:
    runs = [run("none", 0, math.nan), run("kl", 0, math.inf), run("none", 1, 1.0), run("kl", 1, 1.1)]
    results = Results({}, {}, [dataclasses.replace(pipeline(), runs=runs)])
    made = plots.figures(results)
    for name in ("differences", "curves-same-tokenizer"):
        assert size(png(made[name]))[0] >= 900
    assert " diverged" in [text.get_text() for text in made["differences"].axes[0].texts]
    finite = [line.get_ydata() for line in made["curves-same-tokenizer"].axes[0].lines]
    assert any(np.allclose(values, [2.0, 1.1]) for values in finite)


def test_lambda_grid_is_the_schedule() -> None:
    grid = lambda_grid(HeatMap(0.1, 0.9, "cosine", "both"), size=5)
    time, progress = np.linspace(0, 1, 5)[:, None], np.linspace(0, 1, 5)[None, :]
    expected = (0.1 + 0.8 * 0.5 * (1 - np.cos(np.pi * progress))) * (1 - time)
    np.testing.assert_allclose(grid, expected, atol=1e-6)
    linear = lambda_grid(HeatMap(0.2, 0.6, "linear", "training"), size=5)
    np.testing.assert_allclose(linear, np.broadcast_to(0.2 + 0.4 * progress, (5, 5)), atol=1e-6)


def test_lambda_figure_draws_a_callable_or_an_array() -> None:
    called = plots.lambda_figure(HeatMap(), lambda t, progress: t * progress)
    grid = np.outer(np.linspace(0, 1, 101), np.linspace(0, 1, 101))
    for figure in (called, plots.lambda_figure(HeatMap(), grid)):
        drawn = np.asarray(figure.axes[0].images[0].get_array())
        np.testing.assert_allclose(drawn, grid, atol=1e-6)
        assert figure.axes[0].images[0].origin == "lower"  # t grows upwards


def test_mean_curve_uses_the_steps_of_every_seed() -> None:
    assert mean_curve([[(0, 1.0), (10, 2.0), (20, 9.0)], [(0, 3.0), (10, 5.0)], []]) == [(0, 2.0), (10, 3.5)]
    assert mean_curve([[], []]) == []


def test_smoothed_by_hand() -> None:
    np.testing.assert_allclose(smoothed([1, 4, 1, 4, 10], 3), [1, 2, 3, 5, 10])
    np.testing.assert_allclose(smoothed([1, 2, 3, 4, 30], 5), [1, 2, 8, 37 / 3, 30])
    np.testing.assert_allclose(smoothed([5, 7], 0), [5, 7])
    assert smoothed([], 3).shape == (0,)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "tide.presentation.figures")
    with pytest.raises(ImportError, match=r'pip install -e "\.\[plots\]"'):
        importlib.import_module("tide.presentation.figures")

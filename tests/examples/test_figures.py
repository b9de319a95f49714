"""The figures: their content, and that they are PNG."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest

from examples.quickstart.figures import (
    difference_figure,
    figures,
    lambda_figure,
    lambda_grid,
    mean_curve,
    smoothed,
    training_figure,
)
from examples.quickstart.results import LONGER
from tests.examples.samples import OBJECTIVE, example, model, pipeline, run
from tide.config import ObjectiveConfig
from tide.inspection.figures import DARK, DOTS_PER_INCH, png


def size(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert png[12:16] == b"IHDR"
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_every_figure_as_png():
    made = figures(example(), OBJECTIVE)
    assert list(made) == ["differences", "curves-same-tokenizer", "curves-cross-tokenizer", "lambda"]
    for figure in made.values():
        width, height = size(png(figure))
        assert (width, height) == tuple(int(edge * DOTS_PER_INCH) for edge in figure.get_size_inches())
        assert 900 <= width <= 2000 and 300 <= height <= 1200


def test_png_is_the_same_for_the_same_results():
    first, second = (png(difference_figure(example().pipelines)) for _ in range(2))
    assert first == second
    assert first != png(difference_figure(example().pipelines, DARK))


def test_difference_figure_holds_seeds_means_and_spread():
    figure = difference_figure([pipeline()])
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["kl", "tide_shared"]
    drawn = [np.asarray(line.get_xdata(), dtype=float) for line in axes.lines]
    for expected in ([-0.1, -0.04, -0.06], [-0.2 / 3], [-0.2 / 3 - 0.0758925, -0.2 / 3 + 0.0758925], [0.05]):
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
def test_no_label_of_a_difference_crosses_the_zero_line(loss: float, words: str, side: str):
    runs = [run("none", 0, 1.0), run("kl", 0, loss), run("tide_shared", 0, 1.1 if side else 0.9)]
    figure = difference_figure([pipeline(runs=runs)])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (label,) = (text for text in axes.texts if text.get_text() == words)
    box, zero = label.get_window_extent(), axes.transData.transform((0, 0))[0]
    inside = axes.get_window_extent()
    assert not box.x0 < zero < box.x1
    assert inside.x0 <= box.x0 and box.x1 <= inside.x1
    assert label.get_ha() == (side or "center")


def test_every_panel_of_differences_has_its_own_scale():
    small = pipeline(
        "cross tokenizer", runs=[run("none", 0, 1.0), run("kl", 0, 0.999), run(LONGER, 0, 0.9985)]
    )
    first, second = difference_figure([pipeline(), small]).axes
    assert first.get_xlim()[1] > 0.1 and 0.0015 < second.get_xlim()[1] < 0.003
    assert [label.get_text() for label in second.get_yticklabels()] == ["kl", LONGER]


def test_no_difference_figure_without_a_baseline():
    alone = example().model_copy(update={"pipelines": [pipeline(runs=[run("kl", 0, 1.0)])]})
    assert list(figures(alone, OBJECTIVE)) == ["curves-same-tokenizer"]


def test_training_figure_holds_each_seed_and_the_mean():
    held_out, own = training_figure(pipeline()).axes
    curves = [list(line.get_ydata()) for line in held_out.lines]
    for expected in ([2.0, 0.9], [2.0, 1.16], [2.0, 1.04], [2.0, 3.1 / 3]):
        assert any(np.allclose(curve, expected) for curve in curves if len(curve) == 2), expected
    assert legend_of(held_out) == ["none", "kl", "tide_shared"]
    assert legend_of(own) == ["forward kl", "tidal"]
    assert any(np.allclose(line.get_ydata(), [0.0, 1.5, 3.0]) for line in own.lines)


def test_legends_are_below_their_panels():
    figure = training_figure(pipeline())
    figure.draw_without_rendering()
    for axes in figure.axes:
        box = axes.get_legend().get_window_extent()
        assert box.y1 < axes.xaxis.label.get_window_extent().y0, "under the axis' label, too"
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0


def legend_of(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_one_seed_draws_one_line_per_method():
    held_out = training_figure(pipeline(seeds=1)).axes[0]
    curves = [line for line in held_out.lines if len(line.get_xdata()) == 2 and line.get_marker() != "None"]
    assert [line.get_label() for line in curves] == ["none", "kl", "tide_shared"]
    (axes,) = difference_figure([pipeline(seeds=1)]).axes
    assert sorted(float(line.get_xdata()[0]) for line in axes.lines) == pytest.approx([-0.1, 0.0, 0.05])


@pytest.mark.parametrize(
    ("teacher", "note"), [(0.85, "teacher: 0.850"), (0.2, "teacher: 0.200, further down"), (2.5, None)]
)
def test_the_teacher_is_marked_where_it_fits(teacher: float, note: str | None):
    shown = pipeline().model_copy(update={"teacher": model("teacher", 6_300_000, teacher)})
    held_out = training_figure(shown).axes[0]
    assert [text.get_text() for text in held_out.texts] == ([note] if note else [])
    if note == "teacher: 0.200, further down":
        held_out.figure.draw_without_rendering()
        lowest = min(min(line.get_ydata()) for line in held_out.lines)
        bottom = held_out.transData.transform((0, lowest))[1]
        assert held_out.texts[0].get_window_extent().y1 < bottom, "under every curve"


def test_an_outlier_does_not_set_the_scale():
    points = [(step, 500.0 if step == 50 else 3.0 + step % 2) for step in range(100)]
    noisy = run("kl", 0, 1.0).model_copy(update={"curves": {"forward_kl": points}})
    assert training_figure(pipeline(runs=[noisy])).axes[1].get_ylim()[1] < 100


def test_diverged_runs_are_drawn_without_an_error():
    runs = [run("none", 0, math.nan), run("kl", 0, math.inf), run("none", 1, 1.0), run("kl", 1, 1.1)]
    made = figures(example().model_copy(update={"pipelines": [pipeline(runs=runs)]}), OBJECTIVE)
    for name in ("differences", "curves-same-tokenizer"):
        assert size(png(made[name]))[0] >= 900
    assert " diverged" in [text.get_text() for text in made["differences"].axes[0].texts]
    finite = [line.get_ydata() for line in made["curves-same-tokenizer"].axes[0].lines]
    assert any(np.allclose(values, [2.0, 1.1]) for values in finite)


def test_lambda_figure_draws_the_schedule():
    objective = ObjectiveConfig(lambda_init=0.2, lambda_max=0.6)
    time, progress = np.linspace(0, 1, 101)[:, None], np.linspace(0, 1, 101)[None, :]
    expected = (0.2 + 0.4 * 0.5 * (1 - np.cos(np.pi * progress))) * (1 - time)
    np.testing.assert_allclose(lambda_grid(objective), expected, atol=1e-6)
    image = lambda_figure(objective).axes[0].images[0]
    np.testing.assert_allclose(np.asarray(image.get_array()), expected, atol=1e-6)
    assert image.origin == "lower"  # t grows upwards


def test_mean_curve_uses_the_steps_of_every_seed():
    assert mean_curve([[(0, 1.0), (10, 2.0), (20, 9.0)], [(0, 3.0), (10, 5.0)], []]) == [(0, 2.0), (10, 3.5)]
    assert mean_curve([[], []]) == []


def test_smoothed_by_hand():
    np.testing.assert_allclose(smoothed([1, 4, 1, 4, 10], 3), [1, 2, 3, 5, 10])
    np.testing.assert_allclose(smoothed([1, 2, 3, 4, 30], 5), [1, 2, 8, 37 / 3, 30])
    np.testing.assert_allclose(smoothed([5, 7], 0), [5, 7])
    assert smoothed([], 3).shape == (0,)

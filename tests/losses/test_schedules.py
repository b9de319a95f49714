"""Lambda schedules and timestep weights against the formulas worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from tide.losses import lambda_schedule, timestep_weight


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # lambda_train: cosine at p = 1/3 is 0.1 + 0.8 (1 - 1/2) / 2 = 0.3, linear 0.1 + 0.8 / 3.
        ({}, [0.3, 0.225, 0.0]),
        ({"decay": "linear"}, [0.1 + 0.8 / 3, 0.75 * (0.1 + 0.8 / 3), 0.0]),
        ({"axis": "training"}, [0.3, 0.3, 0.3]),
        ({"axis": "timestep"}, [0.9, 0.675, 0.0]),
        ({"lambda_init": 0.5, "lambda_max": 0.5, "axis": "training"}, [0.5, 0.5, 0.5]),
        ({"lambda_init": 0.0, "lambda_max": 1.0}, [0.25, 0.1875, 0.0]),
    ],
)
def test_lambda_follows_both_axes(options, expected):
    lambda_t = lambda_schedule(torch.tensor([0.0, 0.25, 1.0]), 1 / 3, **options)
    torch.testing.assert_close(lambda_t, torch.tensor(expected), rtol=1e-6, atol=1e-8)


def test_lambda_at_a_quarter_of_the_training():
    assert float(lambda_schedule(0.0, 0.25, decay="cosine")) == pytest.approx(0.21715729, rel=1e-6)
    assert float(lambda_schedule(0.0, 0.25, decay="linear")) == pytest.approx(0.3, rel=1e-6)
    assert float(lambda_schedule(0.6, 0.25, decay="cosine")) == pytest.approx(0.08686292, rel=1e-6)


@pytest.mark.parametrize("decay", ["cosine", "linear"])
def test_lambda_train_reaches_its_ends_and_clamps(decay):
    def at(progress):
        return float(lambda_schedule(0.0, progress, decay=decay))

    assert at(0.0) == pytest.approx(0.1, rel=1e-6) and at(1.0) == pytest.approx(0.9, rel=1e-6)
    assert at(-3.0) == at(0.0) and at(1.7) == at(1.0)
    assert at(0.2) < at(0.5) < at(0.8)


def test_midrange_is_a_gaussian_about_one_half():
    t = torch.tensor([0.5, 0.35, 0.65, 0.0, 1.0])
    expected = torch.tensor([1.0, math.exp(-0.5), math.exp(-0.5), math.exp(-50 / 9), math.exp(-50 / 9)])
    torch.testing.assert_close(timestep_weight(t, "midrange"), expected, rtol=1e-5, atol=0)
    wide = timestep_weight(t, "midrange", sigma=0.5)
    torch.testing.assert_close(wide[3], torch.tensor(math.exp(-0.5)), rtol=1e-6, atol=0)
    assert torch.equal(timestep_weight(t), torch.ones(5))


def test_shape_and_dtype_are_those_of_t():
    t = torch.rand(2, 3, dtype=torch.float64)
    for axis in ("both", "training", "timestep"):
        lambda_t = lambda_schedule(t, 0.5, axis=axis)
        assert lambda_t.shape == (2, 3) and lambda_t.dtype == torch.float64
    assert timestep_weight(t, "midrange").dtype == torch.float64
    assert lambda_schedule(t.bfloat16(), 0.5).dtype == torch.float32
    assert lambda_schedule(0.25, 0.5).shape == () and timestep_weight(0.5, "midrange") == 1.0


def test_no_gradient_flows_into_a_schedule():
    t = torch.tensor([0.3], requires_grad=True)
    assert not lambda_schedule(t, 0.5).requires_grad and not timestep_weight(t, "midrange").requires_grad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lambda_schedule(1.2, 0.5), r"lambda_schedule: t must lie in \[0, 1\].*1.2"),
        (lambda: lambda_schedule(torch.tensor([0.5, -0.1]), 0.5), r"lambda_schedule: t must lie in \[0, 1\]"),
        (lambda: lambda_schedule(torch.tensor([torch.nan]), 0.5), r"lambda_schedule: t must lie in \[0, 1\]"),
        (lambda: lambda_schedule(0.5, float("nan")), "progress is NaN; pass step / max_steps"),
        (lambda: lambda_schedule(0.5, 0.5, lambda_init=-0.1), r"lambda_init must lie in \[0, 1\]; got -0.1"),
        (lambda: lambda_schedule(0.5, 0.5, lambda_max=1.1), r"lambda_max must lie in \[0, 1\]; got 1.1"),
        (lambda: lambda_schedule(0.5, 0.5, decay="exp"), "decay must be one of cosine, linear; got 'exp'"),
        (
            lambda: lambda_schedule(0.5, 0.5, axis="time"),
            "axis must be one of both, training, timestep; got 'time'",
        ),
        (lambda: timestep_weight(0.5, "late"), "kind must be one of uniform, midrange; got 'late'"),
        (lambda: timestep_weight(0.5, "midrange", sigma=0.0), "sigma must be positive; got 0.0"),
        (lambda: timestep_weight(2.0), r"timestep_weight: t must lie in \[0, 1\].*2.0"),
    ],
)
def test_bad_values_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()

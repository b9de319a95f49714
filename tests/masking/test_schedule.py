"""Times are uniform in [ε, 1], and a masked token weighs one over the rate at which it is masked."""

from __future__ import annotations

import pytest
import torch

from tide.masking import diffusion_weight, masking_probability, sample_timesteps, touched_probability


@pytest.mark.parametrize("time_epsilon", [1e-3, 0.3])
def test_times_are_uniform_from_epsilon_to_one(time_epsilon):
    draws = 200_000
    t = sample_timesteps(draws, time_epsilon=time_epsilon, generator=torch.Generator().manual_seed(3))
    assert t.dtype == torch.float32 and t.shape == (draws,)
    assert time_epsilon <= t.min() and t.max() <= 1
    uniform = (t.double().sort().values - time_epsilon) / (1 - time_epsilon)
    # Kolmogorov-Smirnov: the largest gap to the uniform distribution exceeds 2 / sqrt(n) once in 1500 seeds.
    gap = (uniform - (torch.arange(draws) + 0.5) / draws).abs().max()
    assert gap < 2 / draws**0.5


def test_times_are_those_of_the_generator():
    first = sample_timesteps(5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first, sample_timesteps(5, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(first, sample_timesteps(5, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("time_epsilon", [0.0, -1e-3, 1.0, 2.0])
def test_epsilon_outside_the_unit_interval_is_an_error(time_epsilon):
    with pytest.raises(
        ValueError, match=rf"sample_timesteps: time_epsilon must be in \(0, 1\); got {time_epsilon}"
    ):
        sample_timesteps(2, time_epsilon=time_epsilon)


def test_the_probability_that_any_token_is_masked():
    t = torch.tensor([0.001, 0.25, 0.7, 1.0])
    assert torch.equal(touched_probability(t, torch.tensor(1.0)), t)
    assert not touched_probability(t, torch.tensor(0.0)).any()
    expected = [1 - (1 - time) ** 5 for time in t.double().tolist()]
    assert touched_probability(t, torch.tensor(5.0)).tolist() == pytest.approx(expected, rel=1e-7)


def test_the_schedule_is_linear():
    t = torch.tensor([0.001, 0.25, 0.5, 1.0])
    assert masking_probability(t).tolist() == t.tolist()
    torch.testing.assert_close(diffusion_weight(t), torch.tensor([1000.0, 4.0, 2.0, 1.0]))
    # −α'/(1 − α) with α = 1 − p_mask, the derivative by differences.
    step = 1e-6
    times = t[1:3].double()
    slope = (masking_probability(times + step) - masking_probability(times - step)) / (2 * step)
    torch.testing.assert_close(diffusion_weight(times), slope / masking_probability(times), rtol=1e-7, atol=0)

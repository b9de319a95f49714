"""The schedule of λ, the teacher's share of TIDAL's target, and the weight of a timestep.

Source: TIDE (arXiv 2604.26951), dual-axis schedule and mid-range weighting.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tide.losses.options import check_choice
from tide_kernels import scalar_tensor

if TYPE_CHECKING:
    from jaxtyping import Float


def lambda_schedule(
    t: float | Float[Tensor, " ..."],
    progress: float,
    *,
    lambda_init: float = 0.1,
    lambda_max: float = 0.9,
    decay: str = "cosine",
    axis: str = "both",
) -> Float[Tensor, " ..."]:
    """λ(t, p): the teacher's share of TIDAL's target at timestep t and training progress p.

    ``both``: λ_train(p) (1 - t), with λ_train(p) = λ_init + (λ_max - λ_init) g(p) and g(p) =
    (1 - cos(πp)) / 2 or p. ``training``: λ_train(p) at every t. ``timestep``: λ_max (1 - t).

    Args:
        t: diffusion time in [0, 1], 1 is fully masked; any shape, commonly [B].
        progress: share of training done, p; clamped to [0, 1].
        lambda_init, lambda_max: λ_train at the start and the end, in [0, 1].
        decay: g, ``cosine`` or ``linear``.
        axis: ``both``, ``training`` (this is TAID) or ``timestep``.

    Returns:
        Shape of t, fp32 (fp64 if t is), in [0, 1].

    Raises:
        ValueError: a value outside its range (not checked of t on a GPU), or an unknown name.
    """
    check_choice("lambda_schedule", "decay", decay, ("cosine", "linear"))
    check_choice("lambda_schedule", "axis", axis, ("both", "training", "timestep"))
    for name, value in (("lambda_init", lambda_init), ("lambda_max", lambda_max)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"lambda_schedule: {name} must lie in [0, 1]; got {value}.")
    if progress != progress:  # math.isnan does not take a symbolic number of torch.compile.
        raise ValueError("lambda_schedule: progress is NaN; pass step / max_steps with max_steps > 0.")
    time = _timestep("lambda_schedule", t)
    if axis == "timestep":
        return lambda_max * (1.0 - time)
    done = min(max(progress, 0.0), 1.0)
    growth = 0.5 * (1.0 - math.cos(math.pi * done)) if decay == "cosine" else done
    lambda_train = lambda_init + (lambda_max - lambda_init) * growth
    return torch.ones_like(time) * lambda_train if axis == "training" else lambda_train * (1.0 - time)


def timestep_weight(
    t: float | Float[Tensor, " ..."], kind: str = "uniform", sigma: float = 0.15
) -> Float[Tensor, " ..."]:
    """The weight of a sequence noised to time t in a distillation term.

    Args:
        t: diffusion time in [0, 1]; any shape, commonly [B].
        kind: ``uniform`` (1) or ``midrange`` (exp(-(t - 1/2)² / (2 sigma²))).
        sigma: width of ``midrange`` in units of t.

    Returns:
        Shape of t, fp32 (fp64 if t is), in [0, 1].

    Raises:
        ValueError: an unknown kind, sigma not positive, or t outside [0, 1] (not checked on a GPU).
    """
    check_choice("timestep_weight", "kind", kind, ("uniform", "midrange"))
    if not sigma > 0.0:
        raise ValueError(f"timestep_weight: sigma must be positive; got {sigma}.")
    time = _timestep("timestep_weight", t)
    if kind == "uniform":
        return torch.ones_like(time)
    return torch.exp((time - 0.5).square() / (-2.0 * sigma * sigma))


def _timestep(function: str, t: float | Tensor) -> Tensor:
    dtype = torch.float64 if isinstance(t, Tensor) and t.dtype == torch.float64 else torch.float32
    if isinstance(t, (float, int)):
        time = scalar_tensor(t, dtype)
    else:
        time = torch.as_tensor(t, dtype=dtype).detach()
    # On a GPU the check would stall the step, under torch.compile break the graph.
    checked = time.device.type == "cpu" and not torch.compiler.is_compiling()
    if checked and not bool(((time >= 0.0) & (time <= 1.0)).all()):
        raise ValueError(f"{function}: t must lie in [0, 1] (1 is fully masked); got {t}.")
    return time

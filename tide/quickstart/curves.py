"""The numbers that the figures draw: means over seeds, running means, lambda on a grid."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from tide.losses import lambda_schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from tide.quickstart.results import HeatMap

    Points: TypeAlias = list[tuple[int, float]]
    Schedule: TypeAlias = Callable[[Tensor, float], Tensor]


def lambda_grid(
    settings: HeatMap, schedule: Schedule | None = None, size: int = 101
) -> Float[np.ndarray, "T P"]:
    """lambda on an even grid over [0, 1]: rows are diffusion times t, columns training progress p."""

    def from_settings(t: Tensor, progress: float) -> Tensor:
        low, high = settings.lambda_init, settings.lambda_max
        return lambda_schedule(
            t, progress, lambda_init=low, lambda_max=high, decay=settings.decay, axis=settings.axis
        )

    at = from_settings if schedule is None else schedule
    t = torch.linspace(0, 1, size)
    columns = [at(t, column / (size - 1)) for column in range(size)]
    values: Float[np.ndarray, "T P"] = torch.stack(columns, dim=1).double().numpy()
    return values


def mean_curve(seeds: Sequence[Points]) -> Points:
    """Mean over seeds at every step that all of them logged, in order of steps."""
    by_seed = [dict(points) for points in seeds if points]
    steps = sorted(set.intersection(*(set(points) for points in by_seed))) if by_seed else []
    return [(step, math.fsum(points[step] for points in by_seed) / len(by_seed)) for step in steps]


def smoothed(values: Sequence[float], window: int) -> Float[np.ndarray, " S"]:
    """Centred running mean over `window` values (made odd); it shrinks symmetrically towards both ends."""
    array = np.asarray(values, dtype=np.float64)
    reach = [min(max(window, 1) // 2, i, len(array) - 1 - i) for i in range(len(array))]
    return np.array([array[i - r : i + r + 1].mean() for i, r in enumerate(reach)])

"""Means of per-step metrics that stay on the device until they are logged."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class MetricMeans:
    """Sums metrics without reading them back; `pop` reads them once, at the logging interval."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0
        self._num_tokens = 0
        self._since = time.perf_counter()

    def add(self, metrics: dict[str, Tensor], num_tokens: int) -> None:
        """Adds one micro-step's metrics (scalars on the device) and its student tokens."""
        for name, value in metrics.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._num_steps += 1
        self._num_tokens += num_tokens

    def pop(self, mean_over_ranks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means since the last call, and this rank's student tokens per second; empty without steps."""
        if not self._num_steps:
            return {}
        stacked = torch.stack(list(self._sums.values())) / self._num_steps
        means = dict(zip(self._sums, mean_over_ranks(stacked).tolist(), strict=True))
        now = time.perf_counter()
        means["tokens_per_second"] = self._num_tokens / (now - self._since)
        self._sums, self._num_steps, self._num_tokens, self._since = {}, 0, 0, now
        return means

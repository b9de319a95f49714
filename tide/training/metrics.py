"""Per-step values that stay on the device until they are read: means to log, and what is not finite."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

_NEVER = 2**62  # a step that no run reaches


class MetricMeans:
    """Sums metrics without reading them back; `pop` reads them once, at the logging interval."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0.0
        self._num_tokens = 0
        self._since = time.perf_counter()

    def add(self, metrics: dict[str, Tensor], num_tokens: int, share: float = 1.0) -> None:
        """Adds one micro-step's metrics (scalars on the device), its student tokens, its share of a step."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0) + value * share
        self._num_steps += share
        self._num_tokens += num_tokens

    def pop(self, mean_over_ranks: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means since the last call, and this rank's student tokens per second; empty without steps."""
        if not self._num_steps:
            return {}
        stacked = torch.stack(list(self._sums.values())) / self._num_steps
        means = dict(zip(self._sums, mean_over_ranks(stacked).tolist(), strict=True))
        now = time.perf_counter()
        means["tokens_per_second"] = self._num_tokens / (now - self._since)
        self._sums, self._num_steps, self._num_tokens, self._since = {}, 0.0, 0, now
        return means


class NonFiniteValues(NamedTuple):
    """The first step at which values were NaN or infinite, and how many examples made them so."""

    step: int
    names: list[str]
    num_examples: int


class NonFinite:
    """Remembers, on the device, the first step at which each watched value was NaN or infinite."""

    def __init__(self, device: torch.device) -> None:
        self._first: dict[tuple[str, ...], Tensor] = {}
        self._earliest = torch.tensor(_NEVER, device=device)
        self._num_examples = torch.zeros_like(self._earliest)

    def watch(self, values: dict[str, Tensor], step: int, num_examples: Tensor | None = None) -> None:
        """Watch a step's values (scalars on the device).

        Args:
            values: by name.
            step: from 1.
            num_examples: how many examples of this micro-step are not finite.
        """
        names, finite = tuple(values), torch.stack(list(values.values())).isfinite()
        first = torch.where(finite, _NEVER, step)
        self._first[names] = torch.minimum(first, self._first.get(names, first))
        self._earliest = torch.minimum(self._earliest, first.min())
        if num_examples is not None:
            self._num_examples = self._num_examples + num_examples * (self._earliest == step)

    def first(self, num_weights: int, gather: Callable[[Tensor], Tensor]) -> NonFiniteValues | None:
        """Read the first such step of all ranks; None if all is finite. Waits for the device.

        Args:
            num_weights: this rank's weights that are not finite.
            gather: concatenates the vectors of all ranks.
        """
        names = [name for group in self._first for name in group]
        own = torch.stack([self._num_examples, self._num_examples.new_tensor(num_weights)])
        ranks = gather(torch.cat([own, *self._first.values()])).view(-1, len(own) + len(names)).tolist()
        firsts = [min(steps) for steps in zip(*(rank[2:] for rank in ranks), strict=True)]
        step = min(firsts, default=_NEVER)
        if step == _NEVER:
            return NonFiniteValues(step, [], 0) if any(rank[1] for rank in ranks) else None
        num_examples = sum(rank[0] for rank in ranks if min(rank[2:]) == step)
        return NonFiniteValues(
            step, [name for name, at in zip(names, firsts, strict=True) if at == step], num_examples
        )


def non_finite_weights(model: nn.Module) -> list[str]:
    """Names of the parameters that hold a NaN or an infinity. Waits for the device."""
    # Quantized parameters are integers or one byte wide; a shard may be empty.
    parts = {
        name: getattr(parameter, "to_local", parameter.detach)().detach()
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.element_size() > 1 and not parameter.is_meta
    }
    parts = {name: part for name, part in parts.items() if part.numel()}
    # The largest magnitude: NaN if one is NaN, in one pass and without a copy.
    norms = [torch.linalg.vector_norm(part, math.inf) for part in parts.values()]
    finite = torch.stack([norm.to(norms[0].device) for norm in norms]).isfinite().tolist() if norms else []
    return [name for name, is_finite in zip(parts, finite, strict=True) if not is_finite]

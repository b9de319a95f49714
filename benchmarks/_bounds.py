"""Error bounds of this project's fused backends against fp64, by dtype and kind of inputs.

Loss errors are relative, gradient errors norm over norm. kind is ``ordinary`` or ``near``: nearly converged,
where the loss is a small difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Bounds(NamedTuple):
    """Largest errors that pass the gate."""

    loss: float
    gradient: float


# (dtype, kind, error of the exact gradient rounded to the dtype) to bounds.
BoundsOf = Callable[[str, str, float], Bounds]

# From logits. Gradient: a multiple of the rounding error of the exact one; in fp32, where arithmetic errs
# more than rounding, at least FP32_GRADIENT.
STRICT_LOSS = 1e-5
STRICT_FLOORS = 1.1
FP32_GRADIENT = {"ordinary": 2e-5, "near": 2e-4}


def logits_in(dtype: str, kind: str, floor: float) -> Bounds:
    """Bounds of operations on logits. floor: rounding error of the exact gradient."""
    gradient = STRICT_FLOORS * floor
    return Bounds(STRICT_LOSS, max(gradient, FP32_GRADIENT[kind]) if dtype == "float32" else gradient)


# From hidden states. The near bounds allow for the error of products of a few thousand terms beside a
# difference of 1e-2 nats: 1e-6 of a logit on fp32 units, 1e-5 on half-precision units, which round towards 0.
HIDDEN_WIDE = {"ordinary": Bounds(1e-5, 2e-5), "near": Bounds(1e-4, 2e-3)}
HIDDEN_HALF = {"ordinary": Bounds(1e-4, 5e-3), "near": Bounds(1e-2, 3e-2)}


def hidden_in(dtype: str, kind: str, floor: float) -> Bounds:
    """Bounds of operations on hidden states and heads.

    floor is unused: sums over rows and columns err more than the rounding of their result.
    """
    return (HIDDEN_WIDE if dtype == "float32" else HIDDEN_HALF)[kind]

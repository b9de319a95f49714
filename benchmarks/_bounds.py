"""What this project's fused backends are held to, by dtype and kind of inputs: the loss's error relative to
it, the gradient's norm over norm, both against fp64 of the same inputs.

kind is ``ordinary`` or ``near``: nearly converged, where the loss is a small difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Bounds(NamedTuple):
    """Largest errors that pass."""

    loss: float
    gradient: float


# dtype, kind, and the error of the exact gradient rounded to the dtype, to bounds.
BoundsOf = Callable[[str, str, float], Bounds]

# Logits in. Gradient: a multiple of what rounding the exact one costs, and in fp32, where arithmetic costs
# more than that, at least FP32_GRADIENT.
STRICT_LOSS = 1e-5
STRICT_FLOORS = 1.1
FP32_GRADIENT = {"ordinary": 2e-5, "near": 2e-4}


def logits_in(dtype: str, kind: str, floor: float) -> Bounds:
    """Of operations on logits, which both sides have exactly.

    Args:
        dtype: of the inputs.
        kind: of the inputs.
        floor: error of the exact gradient, rounded.
    """
    gradient = STRICT_FLOORS * floor
    return Bounds(STRICT_LOSS, max(gradient, FP32_GRADIENT[kind]) if dtype == "float32" else gradient)


# Hidden states in. The near bounds leave room for what products of a few thousand terms err by beside a
# difference of 1e-2 nats: 1e-6 of a logit where units for fp32 sum, 1e-5 where those for half types do, which
# round towards 0.
HIDDEN_WIDE = {"ordinary": Bounds(1e-5, 2e-5), "near": Bounds(1e-4, 2e-3)}
HIDDEN_HALF = {"ordinary": Bounds(1e-4, 5e-3), "near": Bounds(1e-2, 3e-2)}


def hidden_in(dtype: str, kind: str, floor: float) -> Bounds:
    """Of operations on hidden states and heads.

    Args:
        dtype: of the inputs.
        kind: of the inputs.
        floor: not read: sums over rows and columns err more than the rounding of their result.
    """
    return (HIDDEN_WIDE if dtype == "float32" else HIDDEN_HALF)[kind]

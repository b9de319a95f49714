"""What a backend of the divergences takes and gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


class DivergenceRows(NamedTuple):
    """The checked arguments of a call. Reverse KL ignores lambda_t."""

    student_logits: Float[Tensor, "N V"]
    teacher_logits: Float[Tensor, "N V2"]
    lambda_t: Float[Tensor, " N"]  # in the accumulation dtype
    labels: Int[Tensor, " N"] | None  # int64
    mask: Bool[Tensor, " N"] | None  # rows at False are not read
    temperature: float
    vocab: int  # columns in use


class DivergenceBackend(Protocol):
    """Both directions of a divergence over all rows of logits."""

    @property
    def num_statistics(self) -> int:
        """Numbers per row that backward needs from forward."""

    def forward(
        self, rows: DivergenceRows
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"], Float[Tensor, "N F"]]:
        """(kl in nats, ce, statistics), in the accumulation dtype; ce is empty without labels."""

    def backward(
        self,
        rows: DivergenceRows,
        statistics: Float[Tensor, "N F"],
        d_kl: Float[Tensor, " N"] | None,
        d_ce: Float[Tensor, " N"] | None,
        out: Float[Tensor, "N V"] | None,
        softcap: float = 0.0,
    ) -> Float[Tensor, "N V"]:
        """Gradient in the student's logits, written to `out` if given; `out` may be those logits.

        With a softcap, the student's logits are the capped ones and the gradient is in the uncapped ones.
        `torch` has no such argument.
        """

"""What is measured: an operation on one shape, in one dtype and one mode, and in which order.

Legend: N rows (token positions), V vocabulary entries, width: columns of the logits, of which the first V are
read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

FORWARD = "forward"
BOTH = "forward+backward"
MODES = (BOTH, FORWARD)

HEADLINE_VOCAB = 151936
# Heads of the real models: (V, width). The first is the prefix that two checkpoints have in common, read in
# place; the second the same V as a width of its own, whose rows start at odd multiples of 4 bytes in bf16.
LAYOUTS = ((151646, 151936), (151646, 151646), (151936, 151936), (157184, 157184))
TOKENS_PER_SEQUENCE = 512


@dataclass(frozen=True)
class Case:
    """One measurement. stage 0 is the headline, which runs first; vocab is 0 where no vocabulary is read."""

    op: str
    variant: str
    rows: int
    vocab: int
    width: int
    dtype: str
    mode: str
    stage: int = 0

    @property
    def shape(self) -> str:
        """For people: `N 4,096, V 151,646 of 151,936`."""
        if not self.vocab:
            return f"N {self.rows:,}"
        return f"N {self.rows:,}, V {layout_name(self.vocab, self.width)}"

    @property
    def label(self) -> str:
        """Group of the measurements that alternate."""
        return f"{self.variant} {self.mode}, {self.shape}, {self.dtype}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and for the process that measures memory."""
        return asdict(self)


class Sweep(NamedTuple):
    """Rows of the headline, of the sweep over N, and dtypes: the first everywhere, all at the headline."""

    headline: int
    rows: tuple[int, ...]
    dtypes: tuple[str, ...]


SWEEPS = {
    "cuda": Sweep(4096, (512, 1024, 2048, 8192, 16384), ("bfloat16",)),
    # Seconds per step instead of milliseconds: few rows.
    "cpu": Sweep(128, (64, 256), ("float32", "bfloat16")),
}
# One number per token: as quick on a CPU.
TOKEN_SWEEP = Sweep(4096, (512, 2048, 16384), ("float32",))


def layout_name(vocab: int, width: int) -> str:
    """`151,646 of 151,936` where a prefix is read, else the width."""
    return f"{vocab:,}" if vocab == width else f"{vocab:,} of {width:,}"


def logits_cases(
    op: str, variant: str, device: str, *, headline_only: bool = False, shapes: tuple[int, int] | None = None
) -> list[Case]:
    """The headline in both modes, then the sweeps over N and over V, forward and backward.

    Args:
        op: name of the operation.
        variant: which objective of it.
        device: ``cuda`` or ``cpu``.
        headline_only: no sweeps.
        shapes: (N, V) of the only shape to measure; None for the tables above.
    """
    sweep = SWEEPS[device]
    rows, vocab = shapes or (sweep.headline, HEADLINE_VOCAB)
    cases = [Case(op, variant, rows, vocab, vocab, dtype, mode) for dtype in sweep.dtypes for mode in MODES]
    if headline_only or shapes is not None:
        return cases
    main = sweep.dtypes[0]
    over_rows = [Case(op, variant, n, vocab, vocab, main, BOTH, stage=1) for n in sweep.rows]
    over_vocab = [
        Case(op, variant, rows, v, width, main, BOTH, stage=1)
        for v, width in LAYOUTS
        if (v, width) != (vocab, vocab)
    ]
    return cases + over_vocab + over_rows


def token_cases(op: str, variant: str, *, headline_only: bool, shapes: tuple[int, int] | None) -> list[Case]:
    """The same for operations on one number per token: no vocabulary, and the same sizes on every device.

    Args:
        op: name of the operation.
        variant: which objective of it.
        headline_only: no sweep.
        shapes: (N, anything) of the only shape to measure.
    """
    sweep = TOKEN_SWEEP
    rows = shapes[0] if shapes else sweep.headline
    cases = [Case(op, variant, rows, 0, 0, sweep.dtypes[0], mode) for mode in MODES]
    if headline_only or shapes is not None:
        return cases
    return cases + [Case(op, variant, n, 0, 0, sweep.dtypes[0], BOTH, stage=1) for n in sweep.rows]

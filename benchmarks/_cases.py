"""Benchmark cases: an operation on one shape, in one dtype and mode.

Legend: N rows (token positions); V vocabulary entries; width: columns of the logits, of which the first V are
read; d_s, d_t: hidden sizes of student and teacher (0: logits are the inputs, or there is no teacher).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

FORWARD = "forward"
BOTH = "forward+backward"
MODES = (BOTH, FORWARD)


class Layout(NamedTuple):
    """V, width, d_s and d_t."""

    vocab: int
    width: int
    student_hidden: int = 0
    teacher_hidden: int = 0


class Sweep(NamedTuple):
    """Rows of the headline and of the sweep over N; dtypes: all at the headline, the first in sweeps."""

    headline: int
    rows: tuple[int, ...]
    dtypes: tuple[str, ...]


HEADLINE_VOCAB = 151936
# Heads of the real models. 151,646 is the common prefix of two checkpoints, read in place; as a width, it
# starts bf16 rows at odd multiples of 4 bytes.
LOGITS = (
    Layout(HEADLINE_VOCAB, HEADLINE_VOCAB),
    Layout(151646, 151936),
    Layout(151646, 151646),
    Layout(157184, 157184),
)
# Divergences: Qwen3-0.6B and a teacher of 8B parameters. Log-probabilities: that student's head and
# LLaDA2.0-mini's.
DIVERGENCE_HEADS = (Layout(HEADLINE_VOCAB, HEADLINE_VOCAB, 1024, 4096),)
TOKEN_HEADS = (Layout(HEADLINE_VOCAB, HEADLINE_VOCAB, 1024), Layout(157184, 157184, 2048))
# On a CPU a step with whole heads takes seconds; `--shape 256 151936` measures it.
CPU_VOCAB_SHARE = 4

SWEEPS = {
    "cuda": Sweep(4096, (512, 1024, 2048, 8192, 16384), ("bfloat16",)),
    "cpu": Sweep(128, (64, 256), ("float32", "bfloat16")),  # seconds per step instead of milliseconds
}
HIDDEN_SWEEPS = {
    "cuda": Sweep(4096, (512, 2048, 16384), ("bfloat16",)),
    "cpu": Sweep(256, (), ("float32",)),
}
# One number per token: fast on a CPU, too.
TOKEN_SWEEP = Sweep(4096, (512, 2048, 16384), ("float32",))


@dataclass(frozen=True)
class Case:
    """One measurement. stage 0 is the headline, which runs first; vocab is 0 if no vocabulary is read."""

    op: str
    variant: str
    rows: int
    vocab: int
    width: int
    dtype: str
    mode: str
    stage: int = 0
    student_hidden: int = 0
    teacher_hidden: int = 0

    @property
    def shape(self) -> str:
        """Readable shape: `N 4,096, V 151,646 of 151,936`."""
        if not self.vocab:
            return f"N {self.rows:,}"
        vocab = f"{self.vocab:,}" if self.vocab == self.width else f"{self.vocab:,} of {self.width:,}"
        hidden = hidden_name(self.student_hidden, self.teacher_hidden)
        return f"N {self.rows:,}, V {vocab}" + (f", d {hidden}" if self.student_hidden else "")

    @property
    def label(self) -> str:
        """Name in tables and of the pytest item."""
        return f"{self.variant} {self.mode}, {self.shape}, {self.dtype}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the process that measures memory."""
        return asdict(self)


def hidden_name(student_hidden: int, teacher_hidden: int) -> str:
    """`1,024 / 4,096`, or `1,024` without a teacher."""
    return f"{student_hidden:,}" + (f" / {teacher_hidden:,}" if teacher_hidden else "")


def cases_of(
    op: str,
    variant: str,
    sweep: Sweep,
    layouts: tuple[Layout, ...],
    shape: tuple[int, int] | None,
    *,
    modes: tuple[str, ...] = MODES,
    headline_only: bool = False,
) -> list[Case]:
    """The headline in the given modes, then the other layouts and the sweep over N, forward and backward.

    shape: (N, V) of the only case to measure; None for the tables above. headline_only: no sweeps.
    """
    rows, first = sweep.headline, layouts[0]
    if shape is not None:
        rows, first = shape[0], first._replace(vocab=shape[1], width=shape[1]) if first.vocab else first

    def case(rows: int, layout: Layout, dtype: str, mode: str, stage: int) -> Case:
        return Case(op, variant, rows, layout.vocab, layout.width, dtype, mode, stage, *layout[2:])

    headline = [case(rows, first, dtype, mode, 0) for dtype in sweep.dtypes for mode in modes]
    if headline_only or shape is not None:
        return headline
    main = sweep.dtypes[0]
    # Every pair of heads is a headline.
    others = [case(rows, layout, main, BOTH, int(not layout.student_hidden)) for layout in layouts[1:]]
    return headline + others + [case(n, first, main, BOTH, 1) for n in sweep.rows]


def hidden_layouts(heads: tuple[Layout, ...], device: str) -> tuple[Layout, ...]:
    """Heads on a device: a CPU takes the first, with a part of its vocabulary."""
    if device != "cpu":
        return heads
    vocab = heads[0].vocab // CPU_VOCAB_SHARE
    return (heads[0]._replace(vocab=vocab, width=vocab),)

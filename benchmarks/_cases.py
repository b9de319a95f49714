"""Benchmark cases: an operation on one shape, in one dtype and mode, in the order of measurement.

Legend: N rows (token positions); V vocabulary entries; width: columns of the logits, of which the first V are
read; d_s, d_t: hidden sizes of student and teacher, if the heads are part of the operation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

FORWARD = "forward"
BOTH = "forward+backward"
MODES = (BOTH, FORWARD)

HEADLINE_VOCAB = 151936
# Heads of the real models: (V, width). The first is the common prefix of two checkpoints, read in place; the
# second has the same V as width, so that bf16 rows start at odd multiples of 4 bytes.
LAYOUTS = ((151646, 151936), (151646, 151646), (151936, 151936), (157184, 157184))
TOKENS_PER_SEQUENCE = 512


class Heads(NamedTuple):
    """V and the hidden sizes of student and teacher (0: no teacher)."""

    vocab: int
    student_hidden: int
    teacher_hidden: int = 0


# Divergences: Qwen3-0.6B and a teacher of 8B parameters. Log-probabilities: that student's head and
# LLaDA2.0-mini's.
DIVERGENCE_HEADS = (Heads(HEADLINE_VOCAB, 1024, 4096),)
TOKEN_HEADS = (Heads(HEADLINE_VOCAB, 1024), Heads(157184, 2048))
# On a CPU a step with whole heads takes seconds; `--shape 256 151936` measures it.
CPU_VOCAB_SHARE = 4


@dataclass(frozen=True)
class Case:
    """One measurement.

    stage 0 is the headline, which runs first. vocab is 0 if no vocabulary is read; hidden sizes are 0 if
    logits are the inputs.
    """

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
        hidden = (
            "" if not self.student_hidden else f", d {hidden_name(self.student_hidden, self.teacher_hidden)}"
        )
        return f"N {self.rows:,}, V {layout_name(self.vocab, self.width)}{hidden}"

    @property
    def label(self) -> str:
        """Name of the group of contestants that alternate."""
        return f"{self.variant} {self.mode}, {self.shape}, {self.dtype}"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and the process that measures memory."""
        return asdict(self)


class Sweep(NamedTuple):
    """Rows of the headline and of the sweep over N; dtypes: all at the headline, the first in sweeps."""

    headline: int
    rows: tuple[int, ...]
    dtypes: tuple[str, ...]


SWEEPS = {
    "cuda": Sweep(4096, (512, 1024, 2048, 8192, 16384), ("bfloat16",)),
    # Few rows: a step takes seconds instead of milliseconds.
    "cpu": Sweep(128, (64, 256), ("float32", "bfloat16")),
}
# With heads a step takes tens of milliseconds on a GPU.
LINEAR_SWEEPS = {
    "cuda": Sweep(4096, (512, 2048, 16384), ("bfloat16",)),
    "cpu": Sweep(256, (), ("float32",)),
}
# One number per token: fast on a CPU, too.
TOKEN_SWEEP = Sweep(4096, (512, 2048, 16384), ("float32",))


def layout_name(vocab: int, width: int) -> str:
    """`151,646 of 151,936` if a prefix is read, else the width."""
    return f"{vocab:,}" if vocab == width else f"{vocab:,} of {width:,}"


def hidden_name(student_hidden: int, teacher_hidden: int) -> str:
    """`1,024 / 4,096`, or `1,024` without a teacher."""
    return f"{student_hidden:,}" + (f" / {teacher_hidden:,}" if teacher_hidden else "")


def logits_cases(
    op: str, variant: str, device: str, *, headline_only: bool = False, shapes: tuple[int, int] | None = None
) -> list[Case]:
    """The headline in both modes, then the sweeps over N and V, forward and backward.

    Args:
        op: operation.
        variant: its objective.
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


def linear_cases(
    op: str,
    variant: str,
    device: str,
    heads: tuple[Heads, ...],
    *,
    modes: tuple[str, ...] = (BOTH,),
    headline_only: bool = False,
    shapes: tuple[int, int] | None = None,
) -> list[Case]:
    """Cases over hidden states: the headline in the given modes, then other heads and the sweep over N,
    forward and backward.

    Args:
        op, variant: as for ``logits_cases``.
        device: ``cuda`` or ``cpu``, which takes only the first heads and a part of the vocabulary.
        heads: of the models, the headline first.
        modes: of the headline. Log-probabilities also need forward: a teacher runs no backward.
        headline_only: no other heads, no sweep.
        shapes: (N, V) of the only shape to measure, with the hidden sizes of the first heads.
    """
    sweep = LINEAR_SWEEPS[device]
    dtype = sweep.dtypes[0]

    def case(rows: int, head: Heads, mode: str, stage: int = 0) -> Case:
        vocab = head.vocab // (CPU_VOCAB_SHARE if device == "cpu" else 1)
        if shapes is not None:
            rows, vocab = shapes
        return Case(op, variant, rows, vocab, vocab, dtype, mode, stage, *head[1:])

    headline = [case(sweep.headline, heads[0], mode) for mode in modes]
    if headline_only or shapes is not None:
        return headline
    others = [] if device == "cpu" else [case(sweep.headline, head, BOTH) for head in heads[1:]]
    return headline + others + [case(n, heads[0], BOTH, stage=1) for n in sweep.rows]


def token_cases(op: str, variant: str, *, headline_only: bool, shapes: tuple[int, int] | None) -> list[Case]:
    """Cases of operations on one number per token: no vocabulary, the same sizes on every device.

    Args:
        op, variant, headline_only: as for ``logits_cases``.
        shapes: (N, ignored) of the only shape to measure.
    """
    sweep = TOKEN_SWEEP
    rows = shapes[0] if shapes else sweep.headline
    cases = [Case(op, variant, rows, 0, 0, sweep.dtypes[0], mode) for mode in MODES]
    if headline_only or shapes is not None:
        return cases
    return cases + [Case(op, variant, n, 0, 0, sweep.dtypes[0], BOTH, stage=1) for n in sweep.rows]

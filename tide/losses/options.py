"""Options that are passed on by keyword, and the errors for one that does not exist."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch.distributed import ProcessGroup


class HiddenOptions(TypedDict, total=False):
    """Further options of every loss over hidden states.

    Attributes:
        student_logit_scale, teacher_logit_scale: factor of ``hidden @ weight.T + bias``; 1 by default.
        student_softcap, teacher_softcap: cap c of the scaled logits, c tanh(logits / c); None for none.
        logits_dtype: of the logits in flight, fp32 by default. bf16 or fp16, where hidden states and heads
            have that dtype, halves their memory and costs 2 to 16 % of the gradient.
        vocab_group: processes that hold equal runs of both heads' rows, in rank order. Hidden states, labels
            (ids of the whole vocabulary) and results are the same on all of them.
    """

    student_logit_scale: float
    teacher_logit_scale: float
    student_softcap: float | None
    teacher_softcap: float | None
    logits_dtype: torch.dtype | None
    vocab_group: ProcessGroup | None


HIDDEN_OPTIONS = tuple(HiddenOptions.__annotations__)


def unknown_option(called: str, option: str, known: Sequence[str]) -> TypeError:
    """The error for an option that ``called`` does not take; it names the nearest known one."""
    near = difflib.get_close_matches(option, known, n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(known)}."
    return TypeError(f"{called}: unexpected keyword argument {option!r}. {remedy}")


def check_choice(called: str, option: str, value: object, choices: Sequence[str]) -> None:
    """Refuse a value of an option that is not one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{called}: {option} must be one of {', '.join(choices)}; got {value!r}.")

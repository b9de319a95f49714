"""Argument rules that every op keeps. Each failure names the function, the rule, the values and the remedy.

Checks that must read tensor values run on CPU tensors only: on a GPU each would wait for the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """fp32, or fp64 once any input is fp64: the dtype in which sums run and per-row values are returned."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def check_matrix(function: str, name: str, x: Float[Tensor, "N V"]) -> None:
    """x is a floating [N, V] with V > 0."""
    if x.dtype not in FLOAT_DTYPES:
        raise ValueError(
            f"{function}: {name} must be fp32, bf16, fp16 or fp64; got {x.dtype}. Cast it first."
        )
    if x.dim() != 2:
        raise ValueError(
            f"{function}: {name} must be two-dimensional, rows by columns; got {tuple(x.shape)}. "
            f"Flatten the leading dimensions: {name}.flatten(0, -2)."
        )
    if x.shape[1] == 0:
        raise ValueError(
            f"{function}: {name} has no columns, shape {tuple(x.shape)}; a softmax needs at least one."
        )


def check_vocab(function: str, vocab_size: int | None, *widths: int) -> int:
    """Number of leading columns that the op reads: vocab_size, or the common width."""
    if vocab_size is None:
        if len(set(widths)) > 1:
            raise ValueError(
                f"{function}: logits must share [N, V]; got widths {' and '.join(map(str, widths))}. "
                "If one is a prefix of the other, pass vocab_size; otherwise use chunk likelihoods."
            )
        return widths[0]
    if not 0 < vocab_size <= min(widths):
        raise ValueError(
            f"{function}: vocab_size must lie in [1, {min(widths)}], the width of the narrower vocabulary; "
            f"got {vocab_size}."
        )
    return int(vocab_size)


def check_pair(
    function: str,
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    vocab_size: int | None,
) -> int:
    """Student and teacher logits that can be compared row by row. Returns the number of columns to read."""
    check_matrix(function, "student_logits", student_logits)
    check_matrix(function, "teacher_logits", teacher_logits)
    check_same_length(
        function, "teacher_logits", teacher_logits, student_logits.shape[0], student_logits.device
    )
    check_frozen(function, "teacher_logits", teacher_logits)
    return check_vocab(function, vocab_size, student_logits.shape[1], teacher_logits.shape[1])


def check_same_length(function: str, name: str, x: Tensor, num_rows: int, device: torch.device) -> None:
    """x has one entry per row and lies where the rows lie."""
    if x.dim() == 0 or x.shape[0] != num_rows:
        raise ValueError(
            f"{function}: {name} must have one entry for each of the {num_rows} rows; "
            f"got shape {tuple(x.shape)}."
        )
    if x.device != device:
        raise ValueError(
            f"{function}: {name} is on {x.device}, the rows on {device}; move it with .to({str(device)!r})."
        )


def check_frozen(function: str, name: str, x: Tensor | None) -> None:
    """Gradients go to the student alone: anything else that asks for one would silently get none."""
    if x is not None and x.requires_grad:
        raise ValueError(
            f"{function}: {name} requires grad, but only the student receives a gradient; "
            f"pass {name}.detach()."
        )


def check_temperature(function: str, temperature: float) -> float:
    """Temperature is a positive finite number."""
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"{function}: temperature must be positive and finite; got {temperature}.")
    return float(temperature)


def check_mask(function: str, mask: Bool[Tensor, " N"] | None, num_rows: int, device: torch.device) -> None:
    """mask is a boolean per row."""
    if mask is None:
        return
    if mask.dtype != torch.bool or mask.dim() != 1:
        raise ValueError(
            f"{function}: mask must be bool [N]; got {mask.dtype} {tuple(mask.shape)}. "
            "Flatten it like the rows and cast with .bool()."
        )
    check_same_length(function, "mask", mask, num_rows, device)


def check_ids(
    function: str,
    name: str,
    ids: Int[Tensor, " N"],
    num_rows: int,
    vocab: int,
    device: torch.device,
    active: Int[Tensor, " A"] | None = None,
) -> Int[Tensor, " N"]:
    """Token ids as int64. On CPU, those of active rows have to lie inside the vocabulary."""
    if ids.dtype not in INTEGER_DTYPES or ids.dim() != 1:
        raise ValueError(f"{function}: {name} must be integers [N]; got {ids.dtype} {tuple(ids.shape)}.")
    check_same_length(function, name, ids, num_rows, device)
    ids = ids.long()
    if ids.device.type == "cpu":
        read = ids if active is None else ids[active]
        outside = (read < 0) | (read >= vocab)
        if bool(outside.any()):
            raise ValueError(
                f"{function}: {name} must lie in [0, {vocab}) on every row that is read; "
                f"got {int(read[outside][0])}. Exclude rows without a target through the mask."
            )
    return ids


def row_lambda(
    function: str,
    lambda_t: float | Float[Tensor, " N"],
    num_rows: int,
    dtype: torch.dtype,
    device: torch.device,
    active: Int[Tensor, " A"] | None = None,
) -> Float[Tensor, " N"]:
    """lambda_t as one value per row. Python numbers are always checked, tensors where no device waits."""
    remedy = "lambda is the teacher's share of the target: 0 the student alone, 1 forward KL"
    if not isinstance(lambda_t, torch.Tensor):
        if not 0.0 <= lambda_t <= 1.0:
            raise ValueError(f"{function}: lambda_t must lie in [0, 1]; got {lambda_t} ({remedy}).")
        return torch.full((num_rows,), float(lambda_t), dtype=dtype, device=device)
    check_frozen(function, "lambda_t", lambda_t)
    values = lambda_t.to(dtype)
    if values.dim() == 0:
        values = values.expand(num_rows)
    if values.dim() != 1:
        raise ValueError(f"{function}: lambda_t must be a number or [N]; got shape {tuple(lambda_t.shape)}.")
    check_same_length(function, "lambda_t", values, num_rows, device)
    if values.device.type == "cpu":
        read = values if active is None else values[active]
        outside = ~((read >= 0) & (read <= 1))
        if bool(outside.any()):
            raise ValueError(
                f"{function}: lambda_t must lie in [0, 1]; got {float(read[outside][0])} ({remedy})."
            )
    return values

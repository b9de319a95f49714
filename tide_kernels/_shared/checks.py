"""Argument checks of all ops. Errors name the function, the rule, the values and the remedy.

Checks of tensor values run on CPU tensors only; on a GPU each would synchronise with the device.
"""

from __future__ import annotations

import numbers
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
from torch.autograd import forward_ad

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    Settings = TypeVar("Settings", bound=NamedTuple)

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LAMBDA_REMEDY = "the teacher's share of the target: 0 is the student, 1 forward KL"
VOCAB_REMEDY = "It is the number of entries to read, e.g. len(tokenizer)."
INTEGER_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """dtype of sums and per-row results: fp64 if any input is fp64, else fp32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


def check_tensor(function: str, name: str, x: object, otherwise: str = "") -> None:
    """Raise unless x is a torch tensor; catches a layer passed for its weight, and arrays."""
    if isinstance(x, torch.Tensor):
        return
    if isinstance(x, torch.nn.Module):
        part = "bias" if name.endswith("bias") else "weight"
        remedy = f"Pass lm_head.{part} for a head lm_head, or the module's output for hidden states."
    else:
        remedy = "Convert an array or a list with torch.as_tensor."
    raise ValueError(
        f"{function}: {name} must be a torch tensor{otherwise}; got {type(x).__name__}. {remedy}"
    )


def check_integer(function: str, name: str, value: object, remedy: str) -> None:
    """Raise unless value is an integer: int, NumPy integer or torch.SymInt."""
    if not isinstance(value, int) and not hasattr(value, "__index__"):
        raise ValueError(f"{function}: {name} must be an integer; got {value!r}. {remedy}")


def check_matrix(function: str, name: str, x: Float[Tensor, "N V"]) -> None:
    """Raise unless x is floating [N, V] with V > 0."""
    check_tensor(function, name, x)
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
    """Number of leading columns to read: vocab_size, or the common width."""
    if vocab_size is None:
        if len(set(widths)) > 1:
            raise ValueError(
                f"{function}: logits must share [N, V]; got widths {' and '.join(map(str, widths))}. "
                "If one is a prefix of the other, pass vocab_size; otherwise use chunk likelihoods."
            )
        return widths[0]
    check_integer(function, "vocab_size", vocab_size, VOCAB_REMEDY)
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
    """Check that both sides can be compared row by row; return the number of columns to read."""
    check_matrix(function, "student_logits", student_logits)
    check_matrix(function, "teacher_logits", teacher_logits)
    check_same_length(
        function, "teacher_logits", teacher_logits, student_logits.shape[0], student_logits.device
    )
    check_frozen(function, "teacher_logits", teacher_logits)
    return check_vocab(function, vocab_size, student_logits.shape[1], teacher_logits.shape[1])


def check_same_length(function: str, name: str, x: Tensor, num_rows: int, device: torch.device) -> None:
    """Raise unless x has one entry per row, on the device of the rows."""
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
    """Raise if x requires grad: only the student receives one, and the rest would silently get none."""
    if x is not None and x.requires_grad:
        raise ValueError(
            f"{function}: {name} requires grad, but only the student receives a gradient; "
            f"pass {name}.detach()."
        )


def check_no_tangent(function: str, backend: str, tensors: Mapping[str, Tensor | None]) -> None:
    """Raise if a floating tensor carries a tangent: the op would silently return a forward derivative of 0.

    The definition supports forward mode. Traced code is not checked.
    """
    if backend == "reference" or torch.compiler.is_compiling():
        return
    for name, x in tensors.items():
        if x is None or not x.is_floating_point():
            continue
        if forward_ad.unpack_dual(x).tangent is not None:
            raise ValueError(
                f"{function}: {name} carries a tangent, but backend {backend!r} has no forward-mode "
                'derivative; use backward(), torch.autograd.grad, or backend="reference".'
            )


def check_constant(function: str, name: str, value: object) -> None:
    """Raise if value requires grad: an op takes it as a number and would drop its gradient."""
    if isinstance(value, torch.Tensor) and value.requires_grad:
        raise ValueError(
            f"{function}: {name} requires grad, but is taken as a constant; pass a number or {name}.detach()."
        )


def check_temperature(function: str, temperature: float) -> float:
    """Raise unless temperature is positive and finite."""
    check_constant(function, "temperature", temperature)
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"{function}: temperature must be positive and finite; got {temperature}.")
    return float(temperature)


def scalar_tensor(
    value: float, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> Float[Tensor, ""]:
    """Return a number as a 0-d tensor, without waiting for the device.

    torch.compile (2.13) may keep the first value of a changing number that is an argument of an op, or of
    `full` or `as_tensor`; as a factor it stays symbolic.
    """
    if torch.compiler.is_compiling():
        return torch.ones((), dtype=dtype, device=device) * value
    return torch.full((), value, dtype=dtype, device=device)


def scalar_tensors(settings: Settings) -> Settings:
    """A named tuple of settings with `scalar_tensor` of each float, to pass to an op."""
    return settings._make(scalar_tensor(x) if isinstance(x, float) else x for x in settings)


def floats(settings: Settings) -> Settings:
    """Undo `scalar_tensors`, inside the op."""
    return settings._make(x.item() if isinstance(x, torch.Tensor) else x for x in settings)


def check_mask(function: str, mask: Bool[Tensor, " N"] | None, num_rows: int, device: torch.device) -> None:
    """Raise unless mask is None or bool [N]."""
    if mask is None:
        return
    check_tensor(function, "mask", mask)
    if mask.dtype != torch.bool or mask.dim() != 1:
        raise ValueError(
            f"{function}: mask must be bool [N]; got {mask.dtype} {tuple(mask.shape)}. "
            "Flatten it like the rows and cast it with .bool()."
        )
    check_same_length(function, "mask", mask, num_rows, device)


def check_ids(
    function: str, name: str, ids: Int[Tensor, " N"], num_rows: int, device: torch.device
) -> Int[Tensor, " N"]:
    """Return token ids [N] as int64. `check_id_values` checks the values."""
    check_tensor(function, name, ids)
    if ids.dtype not in INTEGER_DTYPES or ids.dim() != 1:
        raise ValueError(f"{function}: {name} must be integers [N]; got {ids.dtype} {tuple(ids.shape)}.")
    check_same_length(function, name, ids, num_rows, device)
    return ids.long()


def check_id_values(
    function: str, name: str, ids: Int[Tensor, " N"], vocab: int, mask: Bool[Tensor, " N"] | None
) -> None:
    """Raise if an id of a row in the mask is outside the vocabulary. CPU tensors only."""
    if ids.device.type != "cpu":
        return
    outside = (ids < 0) | (ids >= vocab)
    outside = outside if mask is None else outside & mask
    if bool(outside.any()):
        raise ValueError(
            f"{function}: {name} must lie in [0, {vocab}) on every row that is read; "
            f"got {int(ids[outside][0])}. Exclude rows without a target through the mask."
        )


def row_lambda(
    function: str,
    lambda_t: float | Float[Tensor, " N"],
    num_rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, " N"]:
    """Return lambda_t as [N]. Checks numbers; `check_lambda_values` checks tensors."""
    if not isinstance(lambda_t, torch.Tensor):
        if not isinstance(lambda_t, (float, int)) and not isinstance(lambda_t, numbers.Real):
            check_tensor(function, "lambda_t", lambda_t, " or a number")
        if not 0.0 <= lambda_t <= 1.0:
            raise ValueError(f"{function}: lambda_t must lie in [0, 1]; got {lambda_t} ({LAMBDA_REMEDY}).")
        return scalar_tensor(float(lambda_t), dtype, device).expand(num_rows)
    check_frozen(function, "lambda_t", lambda_t)
    values = lambda_t.to(dtype)
    if values.dim() == 0:
        values = values.expand(num_rows)
    if values.dim() != 1:
        raise ValueError(f"{function}: lambda_t must be a number or [N]; got shape {tuple(lambda_t.shape)}.")
    check_same_length(function, "lambda_t", values, num_rows, device)
    return values


def check_lambda_values(
    function: str, lambda_t: Float[Tensor, " N"], mask: Bool[Tensor, " N"] | None
) -> None:
    """Raise if lambda of a row in the mask is outside [0, 1]. CPU tensors only."""
    if lambda_t.device.type != "cpu":
        return
    outside = ~((lambda_t >= 0) & (lambda_t <= 1))
    outside = outside if mask is None else outside & mask
    if bool(outside.any()):
        raise ValueError(
            f"{function}: lambda_t must lie in [0, 1]; got {float(lambda_t[outside][0])} ({LAMBDA_REMEDY})."
        )


def check_inplace_gradient(function: str, logits: Float[Tensor, "N V"], backend: str) -> None:
    """Raise unless the gradient can overwrite the logits: not a leaf, no overlap, not traced."""
    if backend == "reference":
        raise ValueError(
            f"{function}: inplace_gradient needs backend 'torch' or 'triton'; in 'reference', autograd "
            "allocates the gradient. Turn inplace_gradient off."
        )
    if logits.requires_grad and logits.is_leaf:
        raise ValueError(
            f"{function}: inplace_gradient would overwrite a leaf, and its .grad would alias it; pass logits "
            "computed by a head, or turn inplace_gradient off."
        )
    (inner, num_inner), (outer, num_outer) = sorted(zip(logits.stride(), logits.shape, strict=True))
    if (num_inner > 1 and inner == 0) or (num_outer > 1 and outer <= inner * (num_inner - 1)):
        raise ValueError(
            f"{function}: inplace_gradient needs logits without overlapping entries; got shape "
            f"{tuple(logits.shape)}, strides {logits.stride()}. Pass logits.contiguous()."
        )
    if torch.compiler.is_compiling():
        raise ValueError(
            f"{function}: inplace_gradient does not work under torch.compile, which plans memory itself; "
            "turn it off there."
        )

"""What a benchmark file defines: inputs of an operation, its fp64 truth, its bytes, and who computes it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks._bounds import BoundsOf, logits_in
from benchmarks._cases import BOTH, Case
from tide_kernels._shared import backends

# By name. The first axis is the row, except of those that `Op.shared` names.
Tensors = dict[str, Tensor]
Loss = Callable[[Tensors], Tensor]


@dataclass(frozen=True)
class Contestant:
    """One implementation of an operation.

    Attributes:
        name: in rows, tables and plots.
        build: case to a function of the inputs that returns the scalar loss.
        strict: held to the bounds of this project's fused backends, near-converged teachers included; the
            others only have to compute the same function, and their errors are reported.
        absent: case and device to the reason why it cannot take part, or None.
        overwrites: writes over the student's logits, and gets a copy of them before every step, untimed.
        headline_only: does not take part in sweeps.
        products: not an implementation: runs the matrix products that none can avoid, forward or forward and
            backward by the case's mode. It has no result to check, and others are a share of its time.
    """

    name: str
    build: Callable[[Case], Loss]
    strict: bool = False
    absent: Callable[[Case, torch.device], str | None] = lambda case, device: None
    overwrites: bool = False
    headline_only: bool = False
    products: bool = False


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: of the operation in `tide_kernels`.
        cases: device type and, optionally, (N, V) of the only shape, to the cases.
        inputs: case, device and whether the near-converged form is wanted, to fresh inputs.
        row_losses: case and inputs to [N] losses in the inputs' dtype, from the definition; differentiable.
        least_bytes: case to the bytes that have to move: each pass over a tensor, no temporary.
        contestants: who is measured.
        trained: inputs that get a gradient; the first has rows.
        shared: inputs that all rows share: weights.
        least_flops: case to the floating-point operations of the products it cannot avoid; None for none.
        least_rounds: of the timing, where steps take a tenth of a second; None for the device's own.
        bounds: what strict contestants keep.
    """

    name: str
    cases: Callable[[str, tuple[int, int] | None], list[Case]]
    inputs: Callable[[Case, torch.device, bool], Tensors]
    row_losses: Callable[[Case, Tensors], Tensor]
    least_bytes: Callable[[Case], int]
    contestants: tuple[Contestant, ...]
    trained: tuple[str, ...] = ("student",)
    shared: tuple[str, ...] = ()
    least_flops: Callable[[Case], int] | None = None
    least_rounds: int | None = None
    bounds: BoundsOf = logits_in

    def contestant(self, name: str) -> Contestant:
        """The contestant of that name."""
        return next(c for c in self.contestants if c.name == name)


def load_op(name: str) -> Op:
    """OP of ``benchmarks/bench_<name>.py``.

    Args:
        name: of the operation.
    """
    op: Op = importlib.import_module(f"benchmarks.bench_{name}").OP
    return op


def step(
    loss: Loss, tensors: Tensors, mode: str, trained: tuple[str, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One step: the loss, and in mode forward+backward the gradients, freshly written, else none.

    Args:
        loss: of the inputs.
        tensors: the inputs.
        mode: ``forward`` (no graph is kept) or ``forward+backward``.
        trained: inputs that get a gradient.
    """
    if mode != BOTH:
        with torch.no_grad():
            return loss(tensors), ()
    value = loss(tensors)
    return value.detach(), torch.autograd.grad(value, [tensors[name] for name in trained])


def normal(rows: int, width: int, dtype: str, generator: torch.Generator, scale: float = 2.0) -> Tensor:
    """[N, width] logits of that standard deviation, drawn in the dtype itself on the generator's device."""
    values = torch.empty((rows, width), dtype=getattr(torch, dtype), device=generator.device)
    return values.normal_(0.0, scale, generator=generator)


def seeded(device: torch.device, seed: int = 0) -> torch.Generator:
    """A generator on the device."""
    return torch.Generator(device=device).manual_seed(seed)


def prefix(case: Case) -> int | None:
    """``vocab_size``: a number where the operation reads a prefix of wider logits."""
    return None if case.vocab == case.width else case.vocab


def cut(case: Case, logits: Tensor) -> Tensor:
    """The columns that are read, for code without such an argument."""
    return logits if case.vocab == case.width else logits[:, : case.vocab]


def eager(loss: Callable[[Case, Tensors], Tensor]) -> Contestant:
    """The published formula, operation by operation.

    Args:
        loss: case and inputs to the loss.
    """
    return Contestant("eager", lambda case: functools.partial(loss, case))


def backend_contestants(
    loss: Callable[[str, Case, Tensors], Tensor], *, reference_in_sweeps: bool = True
) -> tuple[Contestant, ...]:
    """This project's backends.

    Args:
        loss: backend, case and inputs to the loss.
        reference_in_sweeps: whether the definition takes part in them.
    """

    def build(backend: str) -> Callable[[Case], Loss]:
        return lambda case: functools.partial(loss, backend, case)

    return (
        Contestant("triton", build("triton"), strict=True, absent=_triton_absent),
        Contestant("torch", build("torch"), strict=True),
        Contestant("reference", build("reference"), headline_only=not reference_in_sweeps),
    )


def compiled(name: str, loss: Callable[[Case, Tensors], Tensor], **options: Any) -> Contestant:
    """torch.compile of a loss, for one shape: what a user gets at best.

    Args:
        name: of the contestant.
        loss: case and inputs to the loss.
        options: further attributes of the contestant.
    """

    def build(case: Case) -> Loss:
        # Compiled code is kept per function, and after eight shapes torch falls back to eager.
        torch._dynamo.reset()
        function: Loss = torch.compile(functools.partial(loss, case), fullgraph=True, dynamic=False)
        return function

    return Contestant(name, build, absent=_compiler_absent, **options)


def reference_loss(op_row_losses: Callable[[Case, Tensors], Tensor]) -> Callable[[Case, Tensors], Tensor]:
    """The definition in fp32 as a scalar loss, which torch.compile fuses.

    Args:
        op_row_losses: as ``Op.row_losses``.
    """

    def loss(case: Case, tensors: Tensors) -> Tensor:
        wide = {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}
        return op_row_losses(case, wide).mean()

    return loss


def liger(name: str, build: Callable[[Case], Loss], **options: Any) -> Contestant:
    """A loss of liger-kernel.

    Args:
        name: of the contestant.
        build: as ``Contestant.build``; imports what it needs.
        options: further attributes of the contestant.
    """
    return peer(name, "liger_kernel", build, **options)


def peer(
    name: str,
    package: str,
    build: Callable[[Case], Loss],
    *,
    differs: Callable[[Case], str | None] = lambda case: None,
    **options: Any,
) -> Contestant:
    """Kernels of another package, for a GPU.

    Args:
        name: of the contestant.
        package: that has to be installed, as it is imported.
        build: as ``Contestant.build``; imports what it needs.
        differs: case to the reason why the package does not compute the same, or None.
        options: further attributes of the contestant.
    """

    def absent(case: Case, device: torch.device) -> str | None:
        shown = package.replace("_", "-")
        if device.type != "cuda":
            return differs(case) or f"{shown} needs a GPU"
        return differs(case) or (None if importlib.util.find_spec(package) else f"{shown} is not installed")

    return Contestant(name, build, absent=absent, **options)


def _triton_absent(case: Case, device: torch.device) -> str | None:
    if "triton" not in backends.BACKENDS:
        return "this version has no triton backend"
    if device.type != "cuda":
        return "triton needs a GPU; its interpreter says nothing about time"
    return None if importlib.util.find_spec("triton") else "triton is not installed"


def _compiler_absent(case: Case, device: torch.device) -> str | None:
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler on CPU"
    return None

"""Records that a benchmark file defines: the operation (inputs, fp64 truth, bytes) and its contestants."""

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

# By name. The first axis is the row, except for the names in `Op.shared`.
Tensors = dict[str, Tensor]
Loss = Callable[[Tensors], Tensor]


@dataclass(frozen=True)
class Contestant:
    """One implementation of an operation.

    Attributes:
        name: in rows, tables and plots.
        build: case to a function of the inputs that returns the scalar loss.
        strict: must keep the bounds of this project's fused backends, also near convergence; other
            contestants must only compute the same function, and their errors are reported.
        absent: (case, device) to the reason why it cannot run, or None.
        overwrites: overwrites the student's logits; gets a fresh copy before every step, untimed.
        headline_only: not in sweeps.
        products: not an implementation: runs the unavoidable matrix products of the case's mode. It has no
            result to check; other contestants are compared with its time.
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
        name: in `tide_kernels`.
        cases: (device type, (N, V) of the only shape or None) to the cases.
        inputs: (case, device, near-converged?) to fresh inputs.
        row_losses: (case, inputs) to [N] losses by the definition, in the inputs' dtype; differentiable.
        least_bytes: case to the least traffic: each pass over a tensor, no temporary.
        contestants: all contestants.
        trained: inputs that get a gradient; the first has rows.
        shared: inputs that all rows share, i.e. weights.
        least_flops: case to the operations of the unavoidable products; None for none.
        least_rounds: fewest timed rounds, for long steps; None for the device's default.
        bounds: of strict contestants.
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
    """Import OP from ``benchmarks/bench_<name>.py``."""
    op: Op = importlib.import_module(f"benchmarks.bench_{name}").OP
    return op


def step(
    loss: Loss, tensors: Tensors, mode: str, trained: tuple[str, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one step: (loss, gradients), without gradients in mode forward.

    Args:
        loss: inputs to the loss.
        tensors: the inputs.
        mode: ``forward`` (keeps no graph) or ``forward+backward``.
        trained: inputs that get a gradient.
    """
    if mode != BOTH:
        with torch.no_grad():
            return loss(tensors), ()
    value = loss(tensors)
    return value.detach(), torch.autograd.grad(value, [tensors[name] for name in trained])


def normal(rows: int, width: int, dtype: str, generator: torch.Generator, scale: float = 2.0) -> Tensor:
    """[N, width] normal values of standard deviation `scale`, drawn in `dtype` on the generator's device."""
    values = torch.empty((rows, width), dtype=getattr(torch, dtype), device=generator.device)
    return values.normal_(0.0, scale, generator=generator)


def seeded(device: torch.device, seed: int = 0) -> torch.Generator:
    """A generator on the device."""
    return torch.Generator(device=device).manual_seed(seed)


def prefix(case: Case) -> int | None:
    """``vocab_size`` of a case: None unless it reads a prefix of wider logits."""
    return None if case.vocab == case.width else case.vocab


def cut(case: Case, logits: Tensor) -> Tensor:
    """The columns in use, for code without a vocab_size argument."""
    return logits if case.vocab == case.width else logits[:, : case.vocab]


def eager(loss: Callable[[Case, Tensors], Tensor]) -> Contestant:
    """The published formula, operation by operation. loss: (case, inputs) to the loss."""
    return Contestant("eager", lambda case: functools.partial(loss, case))


def backend_contestants(
    loss: Callable[[str, Case, Tensors], Tensor], *, reference_in_sweeps: bool = True
) -> tuple[Contestant, ...]:
    """This project's backends. loss: (backend, case, inputs) to the loss."""

    def build(backend: str) -> Callable[[Case], Loss]:
        return lambda case: functools.partial(loss, backend, case)

    return (
        Contestant("triton", build("triton"), strict=True, absent=_triton_absent),
        Contestant("torch", build("torch"), strict=True),
        Contestant("reference", build("reference"), headline_only=not reference_in_sweeps),
    )


def compiled(name: str, loss: Callable[[Case, Tensors], Tensor], **options: Any) -> Contestant:
    """torch.compile of a loss, for one static shape.

    Args:
        name: of the contestant.
        loss: (case, inputs) to the loss.
        options: further attributes of the contestant.
    """

    def build(case: Case) -> Loss:
        # Compiled code is cached per function, and torch falls back to eager after eight shapes.
        torch._dynamo.reset()
        function: Loss = torch.compile(functools.partial(loss, case), fullgraph=True, dynamic=False)
        return function

    return Contestant(name, build, absent=_compiler_absent, **options)


def reference_loss(op_row_losses: Callable[[Case, Tensors], Tensor]) -> Callable[[Case, Tensors], Tensor]:
    """The definition in fp32 as a scalar loss, for torch.compile. op_row_losses: ``Op.row_losses``."""

    def loss(case: Case, tensors: Tensors) -> Tensor:
        wide = {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}
        return op_row_losses(case, wide).mean()

    return loss


def liger(name: str, build: Callable[[Case], Loss], **options: Any) -> Contestant:
    """A loss of liger-kernel; arguments as for ``peer``."""
    return peer(name, "liger_kernel", build, **options)


def peer(
    name: str,
    package: str,
    build: Callable[[Case], Loss],
    *,
    differs: Callable[[Case], str | None] = lambda case: None,
    **options: Any,
) -> Contestant:
    """GPU kernels of another package.

    Args:
        name: of the contestant.
        package: its import name.
        build: as ``Contestant.build``; imports the package.
        differs: case to the reason why the package computes something else, or None.
        options: further attributes of the contestant.
    """

    def absent(case: Case, device: torch.device) -> str | None:
        shown = package.replace("_", "-")
        if device.type != "cuda":
            return differs(case) or f"{shown} needs a GPU"
        return differs(case) or (None if importlib.util.find_spec(package) else f"{shown} is not installed")

    return Contestant(name, build, absent=absent, **options)


def _triton_absent(case: Case, device: torch.device) -> str | None:

    if device.type != "cuda":
        return "triton needs a GPU; its interpreter says nothing about time"
    return None if importlib.util.find_spec("triton") else "triton is not installed"


def _compiler_absent(case: Case, device: torch.device) -> str | None:
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler on CPU"
    return None

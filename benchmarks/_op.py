"""An operation and its contestants, as a file of ``benchmarks/ops`` defines them."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks._cases import BOTH, Case
from benchmarks._targets import Target
from tide_kernels._shared.backends import BACKENDS

# By name. The first axis is the row, except for the names in `Op.shared`.
Tensors = dict[str, Tensor]
Loss = Callable[[Tensors], Tensor]
Formula = Callable[[Case, Tensors], Tensor]
Absent = Callable[[Case, torch.device], str | None]


def _never(case: Case, device: torch.device) -> str | None:
    return None


@dataclass(frozen=True)
class Contestant:
    """One implementation of an operation.

    Attributes:
        name: in rows, tables and plots.
        build: case to a function of the inputs that returns the scalar loss.
        ours: must keep the bounds of this project's fused backends, also near convergence; others must only
            compute the same function, and their errors are reported.
        absent: (case, device) to the reason why it cannot run, or None.
        overwrites: overwrites the student's logits; gets a fresh copy before every step, untimed.
        floor: not an implementation but what none can do without: a copy, or the matrix products.
    """

    name: str
    build: Callable[[Case], Loss]
    ours: bool = False
    absent: Absent = _never
    overwrites: bool = False
    floor: bool = False

    def fresh(self, tensors: Tensors) -> Tensors:
        """The inputs, with a copy of the student if the contestant overwrites it."""
        if not self.overwrites:
            return tensors
        return {**tensors, "student": tensors["student"].detach().clone().requires_grad_()}


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        name: in rows and of the results file.
        cases: (device type, (N, V) of the only shape or None) to the cases.
        inputs: (case, device, near-converged?) to fresh inputs.
        row_losses: (case, inputs) to [N] losses by the definition, in the inputs' dtype; differentiable.
        least_bytes: case to the least traffic: each pass over a tensor, no temporary.
        contestants: all contestants.
        trained: inputs that get a gradient; the first has rows.
        shared: inputs that all rows share, i.e. weights.
        least_flops: case to the operations of the unavoidable products; None for none.
        targets: of backend triton on a GPU.
    """

    name: str
    cases: Callable[[str, tuple[int, int] | None], list[Case]]
    inputs: Callable[[Case, torch.device, bool], Tensors]
    row_losses: Formula
    least_bytes: Callable[[Case], int]
    contestants: tuple[Contestant, ...]
    trained: tuple[str, ...] = ("student",)
    shared: tuple[str, ...] = ()
    least_flops: Callable[[Case], int] | None = None
    targets: tuple[Target, ...] = ()

    def contestant(self, name: str) -> Contestant:
        """The contestant of that name."""
        return next(c for c in self.contestants if c.name == name)


def step(op: Op, loss: Loss, tensors: Tensors, mode: str) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one step: (loss, gradients of ``op.trained``), without gradients in mode forward."""
    if mode != BOTH:
        with torch.no_grad():
            return loss(tensors), ()
    value = loss(tensors)
    return value.detach(), torch.autograd.grad(value, [tensors[name] for name in op.trained])


def contestants(
    op: str,
    official: Formula,
    *others: Contestant,
    ours: Callable[[str, Case, Tensors], Tensor] | None = None,
    tide: Formula | None = None,
    floor: tuple[str, Formula] | None = None,
) -> tuple[Contestant, ...]:
    """The contestants that operations share, and others.

    official: the published formula, run eagerly and by torch.compile. ours: (backend, case, inputs) to the
    loss by `op` of `tide_kernels`. tide: the loss by `tide.losses`. floor: name, and what none does without.
    """

    def compiled(case: Case) -> Loss:
        # Compiled code is cached per function, and torch falls back to eager after eight shapes.
        torch._dynamo.reset()
        function: Loss = torch.compile(partial(official, case), fullgraph=True, dynamic=False)
        return function

    found = [Contestant(floor[0], partial(partial, floor[1]), floor=True)] if floor else []
    found += [
        Contestant("eager", partial(partial, official)),
        Contestant("compile", compiled, absent=_compiler_absent),
        *others,
    ]
    if ours:
        for name in BACKENDS[op]:
            absent = partial(_backend_absent, name)
            found.append(Contestant(name, partial(partial, ours, name), ours=True, absent=absent))
    found += [Contestant("tide", partial(partial, tide), ours=True)] if tide else []
    return tuple(found)


def peer(
    name: str,
    package: str,
    build: Callable[[Case, Any], Loss],
    *,
    gpu_only: bool = True,
    differs: Callable[[Case], str | None] = lambda case: None,
    overwrites: bool = False,
) -> Contestant:
    """A loss of another package.

    package: the module that has it. build: (case, the module) to the loss. gpu_only: its kernels run on a GPU
    only. differs: case to the reason why it computes something else, or None.
    """

    def absent(case: Case, device: torch.device) -> str | None:
        shown = package.split(".")[0].replace("_", "-")
        if reason := differs(case):
            return reason
        if gpu_only and device.type != "cuda":
            return f"{shown} needs a GPU"
        if not importlib.util.find_spec(package.split(".")[0]):
            return f"{shown} is not installed"
        return None

    return Contestant(
        name,
        lambda case: build(case, importlib.import_module(package)),
        absent=absent,
        overwrites=overwrites,
    )


def _backend_absent(name: str, case: Case, device: torch.device) -> str | None:
    if name == "triton" and device.type != "cuda":
        return "triton needs a GPU; its interpreter says nothing about time"
    return BACKENDS[case.op][name].refusal(device, torch.float32) or None


def _compiler_absent(case: Case, device: torch.device) -> str | None:
    if device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "torch.compile needs a C++ compiler on CPU"
    return None

"""Processes that share a head go through a call together, or raise the same error together.

Every sum over the vocabulary waits for all of them: one that raises alone, or plans other chunks than the
rest, would leave the others waiting. So each call begins with one exchange, about a kilobyte a process, of
what must be equal and of the error that a process would raise.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

P = ParamSpec("P")
R = TypeVar("R")


class _Said(NamedTuple):
    """What a process tells the others."""

    facts: dict[str, str]  # what has to be the same everywhere; none where the arguments were refused
    error: str  # empty for none


def refused_by_all(check: Callable[Concatenate[str, P], R]) -> Callable[Concatenate[str, P], R]:
    """Decorate the check of a call's arguments, which takes the function's name and `vocab_group`.

    Where it fails on one process, all that share the head raise a ValueError: those it does not fail on hear
    of it in `go_on_together`.
    """

    @functools.wraps(check)
    def checked(function: str, /, *arguments: P.args, **options: P.kwargs) -> R:
        group: Any = options["vocab_group"]
        # A traced call exchanges nothing: its op does, when it runs.
        if group is None or torch.compiler.is_compiling():
            return check(function, *arguments, **options)
        name = group.group_name
        try:
            return check(function, *arguments, **options)
        except Exception as error:
            _exchange(function, name, {}, error)
            raise

    return checked


def go_on_together(
    function: str, group_name: str, facts: Callable[[], dict[str, str]], check: Callable[[], None]
) -> None:
    """Run the check, and with a group hear whether it succeeds and the facts are the same on all processes.

    Raises:
        ValueError: on every process, where it fails on one or a fact differs.
    """
    if not group_name:
        check()
        return
    failure: Exception | None = None
    try:
        check()
    except Exception as error:
        failure = error
    _exchange(function, group_name, facts(), failure)


def facts_of(*records: Any, but: Iterable[str] = ()) -> dict[str, str]:
    """The fields of named tuples as text: dtype and shape of tensors, the value of others."""
    return {
        name: f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else str(value)
        for record in records
        for name, value in zip(record._fields, record, strict=True)
        if name not in but
    }


def process_group(name: str) -> Any:
    """The group of torch.distributed that has a name."""
    # As torch's own collectives do it, which take a group by its name.
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined,arg-type]


def _exchange(function: str, group_name: str, facts: dict[str, str], error: Exception | None) -> None:
    """Raise what is wrong on any process or between them: the same ValueError everywhere."""
    group = process_group(group_name)
    said: list[Any] = [None] * dist.get_world_size(group)
    # A stream of its own: the answer then waits for the other processes, not for what this device has to do.
    apart = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.cuda.stream(torch.cuda.Stream()) if apart else contextlib.nullcontext():
        dist.all_gather_object(said, _Said(facts, _text(error)), group=group)
    problem = _difference(function, said) or _refusal(function, said)
    if problem:
        raise ValueError(problem) from error


def _text(error: Exception | None) -> str:
    """What a process has to say of its error; ours are ValueErrors that name the function."""
    if error is None:
        return ""
    return str(error) if isinstance(error, ValueError) else repr(error)


def _difference(function: str, said: list[_Said]) -> str:
    """The first fact that differs between processes whose arguments were taken."""
    if not all(one.facts for one in said):
        return ""
    for name in said[0].facts:
        values = [one.facts[name] for one in said]
        if len(set(values)) > 1:
            return (
                f"{function}: every process of vocab_group needs the same {name}; got {'; '.join(values)} by "
                "rank. Pass the same hidden states, rows and options everywhere, and pad the last shard of a "
                "head."
            )
    return ""


def _refusal(function: str, said: list[_Said]) -> str:
    """The error of a process, and which one where others have none."""
    errors = [one.error for one in said]
    if len(set(errors)) == 1:
        return errors[0]
    rank = next(rank for rank, error in enumerate(errors) if error)
    return f"{function}: rank {rank} of vocab_group refuses its arguments: {errors[rank]}"

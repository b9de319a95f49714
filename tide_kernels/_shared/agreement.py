"""Make processes that share a head run a call together or raise the same error together.

Every sum over the vocabulary is a collective. A process that raises alone, or plans different row blocks,
leaves the others waiting. So each call starts with one exchange, about a kilobyte per process: the values
that must match, and the error that this process would raise.
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


class RankReport(NamedTuple):
    """The record that each process sends to the others."""

    facts: dict[str, str]  # values that must match on every process; empty if the arguments are invalid
    error: str  # empty for none


def refused_by_all(check: Callable[Concatenate[str, P], R]) -> Callable[Concatenate[str, P], R]:
    """Decorate an argument check that takes the function's name and `vocab_group`.

    If it fails on one process, every process that shares the head raises: the others learn of it in
    `go_on_together`.
    """

    @functools.wraps(check)
    def checked(function: str, /, *arguments: P.args, **options: P.kwargs) -> R:
        group: Any = options["vocab_group"]
        # A traced call exchanges nothing; its op does when it runs.
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
    """Run the check; with a group, also compare the facts of all processes.

    Raises:
        ValueError: on every process, if the check fails on one or a fact differs.
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
    """Fields of named tuples as text: dtype and shape of tensors, the value of the rest."""
    return {
        name: f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else str(value)
        for record in records
        for name, value in zip(record._fields, record, strict=True)
        if name not in but
    }


def process_group(name: str) -> Any:
    """Return the torch.distributed group of that name."""
    # torch's own functional collectives resolve a group this way.
    return dist.distributed_c10d._resolve_process_group(name)  # type: ignore[attr-defined,arg-type]


def _exchange(function: str, group_name: str, facts: dict[str, str], error: Exception | None) -> None:
    """Gather every process's report; raise the same ValueError everywhere if one fails or a fact differs."""
    group = process_group(group_name)
    reports: list[Any] = [None] * dist.get_world_size(group)
    # On a separate stream the gather waits for the other processes, not for this device's queue.
    use_stream = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.cuda.stream(torch.cuda.Stream()) if use_stream else contextlib.nullcontext():
        dist.all_gather_object(reports, RankReport(facts, _text(error)), group=group)
    problem = _difference(function, reports) or _refusal(function, reports)
    if problem:
        raise ValueError(problem) from error


def _text(error: Exception | None) -> str:
    """Message of an error; ValueErrors here already name the function."""
    if error is None:
        return ""
    return str(error) if isinstance(error, ValueError) else repr(error)


def _difference(function: str, reports: list[RankReport]) -> str:
    """Describe the first fact that differs; empty if none does or a process has invalid arguments."""
    if not all(report.facts for report in reports):
        return ""
    for name in reports[0].facts:
        values = [report.facts[name] for report in reports]
        if len(set(values)) > 1:
            return (
                f"{function}: every process of vocab_group needs the same {name}; got {'; '.join(values)} by "
                "rank. Pass the same hidden states, rows and options on every rank, and pad the head's last "
                "shard."
            )
    return ""


def _refusal(function: str, reports: list[RankReport]) -> str:
    """The error of the failing processes, with the rank unless all fail alike."""
    errors = [report.error for report in reports]
    if len(set(errors)) == 1:
        return errors[0]
    rank = next(rank for rank, error in enumerate(errors) if error)
    return f"{function}: rank {rank} of vocab_group refuses its arguments: {errors[rank]}"

"""Which implementation of an op runs."""

from __future__ import annotations

BACKENDS = ("auto", "reference", "torch")


def resolve_backend(function: str, backend: str) -> str:
    """The backend that a call runs on: `reference`, the definition, or `torch`, in row chunks.

    `auto` is `torch` on every device.

    Raises:
        ValueError: no backend has that name.
    """
    if backend not in BACKENDS:
        raise ValueError(f"{function}: unknown backend {backend!r}; choose one of {', '.join(BACKENDS)}.")
    return "torch" if backend == "auto" else backend

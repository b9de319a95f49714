"""Which implementation of an op runs."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Looked up here: a cached function would make torch.compile warn of its cache.
_HAS_TRITON = importlib.util.find_spec("triton") is not None
BACKENDS = ("auto", "reference", "torch", "triton")
# Devices for which Triton generates code.
TRITON_DEVICES = ("cuda", "xpu")


def resolve_backend(
    function: str,
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    auto_devices: tuple[str, ...] = TRITON_DEVICES,
) -> str:
    """The backend that a call of an op with Triton kernels runs on.

    `reference` is the definition, `torch` works in row chunks, `triton` in one pass. `auto` takes `triton` on
    `auto_devices`, and `torch` elsewhere and for fp64, in which the kernels do not sum.

    Raises:
        ValueError: no backend has that name, or `triton` cannot run there.
    """
    check_backend(function, backend, BACKENDS)
    wide = dtype.itemsize > 4
    if backend == "auto":
        return "triton" if device.type in auto_devices and not wide and has_triton() else "torch"
    if backend != "triton":
        return backend
    if not has_triton():
        raise ValueError(
            f"{function}: backend 'triton' needs the package triton; install it, or use 'torch'."
        )
    if wide:
        raise ValueError(
            f"{function}: backend 'triton' sums in fp32; for {dtype} use 'torch' or 'reference'."
        )
    if device.type not in TRITON_DEVICES and not interpreted():
        raise ValueError(
            f"{function}: backend 'triton' needs a GPU, the inputs are on {device}. Move them, use "
            "'torch', or set TRITON_INTERPRET=1 before Python starts, which runs kernels slowly on the CPU."
        )
    return "triton"


def check_backend(function: str, backend: str, known: tuple[str, ...]) -> None:
    """backend is one of the known names."""
    if backend not in known:
        raise ValueError(f"{function}: unknown backend {backend!r}; choose one of {', '.join(known)}.")


def has_triton() -> bool:
    """The package triton can be imported."""
    return _HAS_TRITON


def interpreted() -> bool:
    """Triton kernels run in its interpreter, on the CPU: set before kernels are imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

"""Backend selection."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

from tide_kernels._shared.native import has_native, native_failure

if TYPE_CHECKING:
    import torch

# At import: torch.compile warns about functions with a cache.
_HAS_TRITON = importlib.util.find_spec("triton") is not None
BACKENDS = ("auto", "reference", "torch", "native", "triton")
# Devices that Triton compiles for.
TRITON_DEVICES = ("cuda", "xpu")


def resolve_backend(
    function: str,
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    auto_devices: tuple[str, ...] = TRITON_DEVICES,
    *,
    native: bool = True,
) -> str:
    """Resolve the backend of a call to an op with Triton kernels and, if `native`, C functions.

    `reference` is the definition, `torch` works by row blocks, `native` and `triton` in one pass. `auto` is
    `triton` on `auto_devices`, `native` on a CPU, and `torch` elsewhere, without a C compiler, and for fp64
    on a GPU, which the kernels do not support.

    Raises:
        ValueError: unknown backend, or it cannot run on the device or dtype, or was not built.
    """
    known = tuple(name for name in BACKENDS if native or name != "native")
    check_backend(function, backend, known)
    wide = dtype.itemsize > 4
    if backend == "auto":
        if device.type in auto_devices and not wide and has_triton():
            return "triton"
        return "native" if native and device.type == "cpu" and has_native() else "torch"
    if backend == "native":
        _check_native(function, device)
    if backend != "triton":
        return backend
    if not has_triton():
        raise ValueError(f"{function}: backend 'triton' needs the package triton; install it or use 'torch'.")
    if wide:
        raise ValueError(
            f"{function}: backend 'triton' sums in fp32; for {dtype} use 'torch' or 'reference'."
        )
    if device.type not in TRITON_DEVICES and not interpreted():
        raise ValueError(
            f"{function}: backend 'triton' needs a GPU, the inputs are on {device}. Move them, use "
            "'torch', or set TRITON_INTERPRET=1 before Python starts to interpret the kernels on the CPU."
        )
    return "triton"


def _check_native(function: str, device: torch.device) -> None:
    if device.type != "cpu":
        raise ValueError(
            f"{function}: backend 'native' runs on a CPU, the inputs are on {device}. Use 'auto' or 'triton'."
        )
    if not has_native():
        raise ValueError(
            f"{function}: backend 'native' could not be built ({native_failure()}). Install a C compiler or "
            "set CC to one, or use 'torch'."
        )


def check_backend(function: str, backend: str, known: tuple[str, ...]) -> None:
    """Raise unless backend is a known name."""
    if backend not in known:
        raise ValueError(f"{function}: unknown backend {backend!r}; choose one of {', '.join(known)}.")


def has_triton() -> bool:
    """Return True if the package triton is installed."""
    return _HAS_TRITON


def interpreted() -> bool:
    """Return True if TRITON_INTERPRET is set: kernels run on the CPU. Triton reads it at import."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

"""Backends: where each op has them, which of them can run, and which one `auto` takes.

The definition, `reference`, is no backend of the table: an op calls it itself.
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
from typing import TYPE_CHECKING, Any, NamedTuple

from tide_kernels._shared.native import has_native, native_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

# At import: torch.compile warns about functions with a cache.
_HAS_TRITON = importlib.util.find_spec("triton") is not None
# Devices that Triton compiles for.
TRITON_DEVICES = ("cuda", "xpu")
# Devices whose products of half inputs have fp32 output (`out_dtype`). torch documents CUDA. ROCm builds,
# whose devices are also named cuda, support it with hipBLASLt and rocBLAS; with Composable Kernel they raise.
WIDE_PRODUCT_DEVICES = ("cuda",)


class Backend(NamedTuple):
    """One way to run an op."""

    where: str  # `module` or `module:object` with `forward` and, where there is a gradient, `backward`
    refusal: Callable[
        [torch.device, torch.dtype], str
    ]  # why it cannot run there, what to do; empty if it can
    auto_on: tuple[str, ...] = ()  # device types where `auto` takes it

    def load(self) -> Any:
        """The module or object; imported on first use, so that triton stays optional."""
        return pkgutil.resolve_name(f"tide_kernels.{self.where}")

    def available(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Return True if it can run on a device, summing in a dtype."""
        return not self.refusal(device, dtype)


def _never(_device: torch.device, _dtype: torch.dtype) -> str:
    return ""


def _of_native(device: torch.device, _dtype: torch.dtype) -> str:
    if device.type != "cpu":
        return f"runs on a CPU, the inputs are on {device}. Use 'auto' or 'triton'."
    if has_native():
        return ""
    return f"could not be built ({native_failure()}). Install a C compiler or set CC to one, or use 'torch'."


def _of_triton(device: torch.device, dtype: torch.dtype) -> str:
    if not has_triton():
        return "needs the package triton; install it or use 'torch'."
    if dtype.itemsize > 4:
        return f"sums in fp32; for {dtype} use 'torch' or 'reference'."
    if device.type not in TRITON_DEVICES and not interpreted():
        return (
            f"needs a GPU, the inputs are on {device}. Move them, use 'torch', or set TRITON_INTERPRET=1 "
            "before Python starts to interpret the kernels on the CPU."
        )
    return ""


def _table(
    torch: str, triton: str, native: str, triton_on: tuple[str, ...] = TRITON_DEVICES
) -> dict[str, Backend]:
    return {
        "torch": Backend(torch, _never),
        "native": Backend(native, _of_native, ("cpu",)),
        "triton": Backend(triton, _of_triton, triton_on),
    }


def _divergence(instance: str, triton_on: tuple[str, ...] = TRITON_DEVICES) -> dict[str, Backend]:
    return _table(
        f"divergence.formulas:{instance}",
        f"divergence.launch:{instance}",
        f"divergence.native:{instance}",
        triton_on,
    )


# Divergences over hidden states run the backends of those over logits, row block by row block.
BACKENDS: dict[str, dict[str, Backend]] = {
    "interpolated_kl": _divergence("INTERPOLATED_KL"),
    "reverse_kl": _divergence("REVERSE_KL"),
    "linear_interpolated_kl": _divergence("INTERPOLATED_KL", WIDE_PRODUCT_DEVICES),
    "linear_reverse_kl": _divergence("REVERSE_KL", WIDE_PRODUCT_DEVICES),
    "token_logprob": _table("token_logprob.chunked", "token_logprob.launch", "token_logprob.native"),
    "linear_token_logprob": _table(
        "linear_token_logprob.chunked",
        "linear_token_logprob.launch",
        "linear_token_logprob.chunked",
        WIDE_PRODUCT_DEVICES,
    ),
    "token_scores": _table("token_scores.chunked", "token_scores.launch", "token_scores.native"),
    "chunk_likelihood": _table(
        "chunk_likelihood.chunked", "chunk_likelihood.launch", "chunk_likelihood.native"
    ),
}


def resolve_backend(function: str, backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Resolve the backend of a call.

    `auto` is `triton` on a GPU, `native` on a CPU, and `torch` where neither can run, as for fp64 on a GPU.

    Raises:
        ValueError: unknown backend, or it cannot run on the device or dtype, or was not built.
    """
    table = BACKENDS[function]
    if backend == "auto":
        for name, entry in table.items():
            if device.type in entry.auto_on and entry.available(device, dtype):
                return name
        return "torch"
    if backend == "reference":
        return backend
    if backend not in table:
        known = ", ".join(("auto", "reference", *table))
        raise ValueError(f"{function}: unknown backend {backend!r}; choose one of {known}.")
    refusal = table[backend].refusal(device, dtype)
    if refusal:
        raise ValueError(f"{function}: backend {backend!r} {refusal}")
    return backend


def has_triton() -> bool:
    """Return True if the package triton is installed."""
    return _HAS_TRITON


def interpreted() -> bool:
    """Return True if TRITON_INTERPRET is set: kernels run on the CPU. Triton reads it at import."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")

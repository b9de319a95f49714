"""How kernels are launched: block sizes from a table per architecture, splits of a row, alignment.

The table is blocks.json, written by `python -m benchmarks.tune`. Nothing is tuned at run time: the first call
costs one compilation, and two runs on one machine take the same path.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

TABLE = Path(__file__).with_name("blocks.json")
# Programs of one warp that a multiprocessor holds at 128 registers a thread.
PROGRAMS_PER_MULTIPROCESSOR = 16
# fp32, fp16 and bf16 rows begin on 16 bytes where their offset is a multiple of this.
ALIGNED_ENTRIES = 8


class Blocks(NamedTuple):
    """Launch parameters of one kernel."""

    block_v: int  # columns a tile, a power of 2
    num_warps: int
    max_registers: int = 0  # a thread's, on NVIDIA GPUs; 0 leaves it to the compiler

    def options(self) -> dict[str, int]:
        """What Triton's compiler is told: warps a program and, where the table sets one, a register limit."""
        options = {"num_warps": self.num_warps}
        if self.max_registers and torch.version.cuda:
            options["maxnreg"] = self.max_registers
        return options


def architecture(device: torch.device) -> str:
    """The key of a device in the table: `sm_90`, `gfx942`, `interpreter` on a CPU."""
    if device.type == "cpu":
        return "interpreter"
    if device.type != "cuda":
        return "default"
    return _cuda_architecture(device.index)


@functools.cache
def _cuda_architecture(index: int) -> str:
    if torch.version.hip:
        return str(torch.cuda.get_device_properties(index).gcnArchName).split(":")[0]
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


@functools.cache
def block_table() -> dict[str, dict[str, Blocks]]:
    """Launch parameters by architecture and kernel; `default` holds for architectures that were not tuned."""
    entries: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())
    return {key: {name: Blocks(**row) for name, row in kernels.items()} for key, kernels in entries.items()}


_overrides: dict[str, Blocks] = {}


@contextlib.contextmanager
def using_blocks(kernel: str, blocks: Blocks) -> Iterator[None]:
    """Launch a kernel with these parameters inside the block, whatever the table says."""
    before = _overrides.get(kernel)
    _overrides[kernel] = blocks
    try:
        yield
    finally:
        del _overrides[kernel]
        if before is not None:
            _overrides[kernel] = before


def blocks_for(kernel: str, device: torch.device) -> Blocks:
    """Launch parameters of a kernel (`interpolated_kl_fwd`) on a device."""
    if kernel in _overrides:
        return _overrides[kernel]
    table = block_table()
    return table.get(architecture(device), {}).get(kernel) or table["default"][kernel]


def splits_for(num_rows: int, vocab: int, block_v: int, device: torch.device) -> int:
    """Programs that share a row: 1 where rows alone fill the device, else enough to fill it."""
    if device.type == "cpu" or num_rows == 0:
        return 1
    wanted = multiprocessors(device) * PROGRAMS_PER_MULTIPROCESSOR
    # A power of 2, since each number is a compilation; two tiles at least, or joining costs more than it
    # saves.
    most = max(1, vocab // (2 * block_v))
    splits = 2 ** math.floor(math.log2(min(max(1, wanted / num_rows), most)))
    return int(splits)


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors (compute units) of a GPU."""
    return _multiprocessors(device.index)


@functools.cache
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def in_lockstep(*rows: Tensor | None) -> bool:
    """Skipping the same few entries at the start of a row brings all of them onto 16 bytes."""
    present = [x for x in rows if x is not None]
    strides = {x.stride(0) % ALIGNED_ENTRIES for x in present if x.shape[0] > 1}
    return len(strides) <= 1 and all(x.data_ptr() % 16 == 0 for x in present)


def with_unit_columns(x: Tensor) -> Tensor:
    """x, or a copy with adjacent columns: kernels take any distance between rows, none between columns."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def kernel_temperature(temperature: float) -> int:
    """The constant by which kernels know where softmax at T = 1 is a power of softmax at T; 0 elsewhere."""
    return int(temperature) if temperature in (1.0, 2.0) else 0


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device; make it that of the inputs."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()

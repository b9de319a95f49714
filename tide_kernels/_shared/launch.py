"""Launch parameters: block sizes per architecture, splits of a row, alignment.

blocks.json holds the table; `python -m benchmarks.tune` writes it. Nothing is tuned at run time: the first
call costs one compilation, and two runs on one machine take the same path.
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
# Registers per multiprocessor over the 32 threads of a warp; as many waves of 64 lanes fit on an AMD one.
WARP_REGISTERS = 65536 // 32
# Registers per thread of a kernel without a limit, roughly: 90 to 250.
USUAL_REGISTERS = 128
# Programs that a multiprocessor of NVIDIA's holds, however small.
MOST_PROGRAMS = 32
# Programs of a launch over those that are resident at once: of 4 or more, the last, incomplete set costs at
# most a fifth of the time.
WAVES = 4
# Tiles of a program below which its start (a tile on its own, short spans) and the join cost more than even
# waves save, and than an idle multiprocessor does.
TILES_TO_EVEN_WAVES = 8
TILES_TO_FILL = 2
# Rows of fp32, fp16 and bf16 are 16-byte aligned if their offset is a multiple of this.
ALIGNED_ENTRIES = 8


class Blocks(NamedTuple):
    """Launch parameters of one kernel."""

    block_v: int  # columns per tile, a power of 2
    num_warps: int
    max_registers: int = 0  # per thread, NVIDIA only; 0 for the compiler's choice

    def resident_programs(self) -> int:
        """Programs that a multiprocessor holds at once, by their registers."""
        # Four schedulers hold equally many warps.
        warps = WARP_REGISTERS // (self.max_registers or USUAL_REGISTERS) // 4 * 4
        return min(max(1, warps // self.num_warps), MOST_PROGRAMS)

    def options(self) -> dict[str, int]:
        """Compiler options: warps per program and, if set, the register limit."""
        options = {"num_warps": self.num_warps}
        if self.max_registers and torch.version.cuda:
            options["maxnreg"] = self.max_registers
        return options


def architecture(device: torch.device) -> str:
    """Key of a device in the table: `sm_90`, `gfx942`, `interpreter` for a CPU."""
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
    """Launch parameters by architecture and kernel; `default` for untuned architectures."""
    entries: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())
    return {key: {name: Blocks(**row) for name, row in kernels.items()} for key, kernels in entries.items()}


_overrides: dict[str, Blocks] = {}


@contextlib.contextmanager
def using_blocks(kernel: str, blocks: Blocks) -> Iterator[None]:
    """Override the launch parameters of a kernel inside the block."""
    before = _overrides.get(kernel)
    _overrides[kernel] = blocks
    try:
        yield
    finally:
        del _overrides[kernel]
        if before is not None:
            _overrides[kernel] = before


def blocks_for(kernel: str, device: torch.device) -> Blocks:
    """Launch parameters of a kernel, e.g. `interpolated_kl_fwd`, on a device."""
    if kernel in _overrides:
        return _overrides[kernel]
    table = block_table()
    return table.get(architecture(device), {}).get(kernel) or table["default"][kernel]


def splits_for(num_rows: int, vocab: int, blocks: Blocks, device: torch.device) -> int:
    """Programs per row: 1 if the rows alone are WAVES times what the device holds at once.

    A power of 2, since each value is a compilation.
    """
    if device.type == "cpu" or num_rows == 0:
        return 1
    resident = multiprocessors(device) * blocks.resident_programs()
    tiles = vocab / blocks.block_v

    def at_most(programs: float, tiles_each: int) -> int:
        most = math.floor(math.log2(max(1.0, tiles / tiles_each)))
        return int(2 ** min(math.ceil(math.log2(max(1.0, programs / num_rows))), most))

    return max(at_most(WAVES * resident, TILES_TO_EVEN_WAVES), at_most(resident, TILES_TO_FILL))


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors (compute units) of a GPU."""
    return _multiprocessors(device.index)


@functools.cache
def _multiprocessors(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def in_lockstep(*rows: Tensor | None) -> bool:
    """Return True if skipping the same few entries of a row aligns all tensors to 16 bytes."""
    present = [x for x in rows if x is not None]
    strides = {x.stride(0) % ALIGNED_ENTRIES for x in present if x.shape[0] > 1}
    return len(strides) <= 1 and all(x.data_ptr() % 16 == 0 for x in present)


def with_unit_columns(x: Tensor) -> Tensor:
    """x, or a copy with unit column stride: kernels take any row stride, but no other column stride."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def kernel_temperature(temperature: float) -> int:
    """TEMPERATURE constant of the kernels: T if 1 or 2, where exp at T = 1 is a power of exp at T; else 0."""
    return int(temperature) if temperature in (1.0, 2.0) else 0


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Make the inputs' device current: Triton launches there."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()

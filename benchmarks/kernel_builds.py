"""Compile every kernel ahead of time; fail on spills, narrow loads and int32 offsets; write a table.

    python -m benchmarks.kernel_builds [--out docs/kernels/builds.md]

Needs no GPU. TRITON_INTERPRET must be unset: the interpreter compiles nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks import _sass
from benchmarks._builds_page import Build, replace_section, section
from benchmarks._kernel_variants import KERNELS, REPRESENTATIVE, WIDE, Kernel, Variant, applicable, signature
from tide_kernels._shared.launch import Blocks, block_table

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
OPS = list(dict.fromkeys(kernel.op for kernel in KERNELS))
# Target on which --quick checks the layouts of rows.
LAID_OUT = "sm_90"
SIXTEEN_BYTES = 128
SHARED_BYTES = {"sm_80": 164 * 1024, "sm_90": 228 * 1024, "sm_100": 228 * 1024, "gfx942": 64 * 1024}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile and report. Returns 1 if a build breaks a rule."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernel_builds", description=__doc__)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--ops", nargs="+", choices=OPS, default=OPS, metavar="OP", help=", ".join(OPS))
    parser.add_argument("--quick", action="store_true", help=f"one variant each; layouts on {LAID_OUT} only")
    parser.add_argument("--block", type=int, help="columns a tile, instead of the table's")
    parser.add_argument("--warps", type=int, help="warps a program, instead of the table's")
    parser.add_argument("--out", type=Path, help="the page whose section for this Triton is replaced")
    options = parser.parse_args(arguments)
    require_compiler("kernel_builds")
    # A page must cover every kernel and target.
    partial = len(options.ops) < len(OPS) or len(options.targets) < len(TARGETS)
    if options.out and (partial or options.quick or options.block or options.warps):
        parser.error("--out takes every kernel, variant and target; drop the other options")

    builds, faults = [], []
    for kernel, variant, target, blocks in wanted(options):
        build = compiled(kernel, variant, target, blocks)
        builds.append(build)
        faults += [f"{build}: {fault}" for fault in broken_rules(build)]
    print(f"{len(builds)} builds with triton {triton.__version__}")
    if options.out:
        text = section(builds, triton.__version__, torch.__version__)
        replace_section(options.out, triton.__version__, text)
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def require_compiler(command: str) -> None:
    """Exit if Triton interprets kernels; silence what compiling them warns of."""
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        sys.exit(
            f"{command}: TRITON_INTERPRET is set, and interpreted kernels cannot be compiled; unset it: "
            f"env -u TRITON_INTERPRET python -m benchmarks.{command}"
        )
    # Triton's default for fused multiply-adds follows from the version that the page names.
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")


def wanted(options: argparse.Namespace) -> Iterator[tuple[Kernel, Variant, str, Blocks | None]]:
    """Builds that the command line asks for."""
    for kernel in KERNELS:
        if kernel.op not in options.ops:
            continue
        for target in options.targets:
            blocks = blocks_of(kernel, target)
            if blocks is not None:
                blocks = blocks._replace(
                    block_v=options.block or blocks.block_v, num_warps=options.warps or blocks.num_warps
                )
            for variant in applicable(kernel):
                quick = variant.name == REPRESENTATIVE
                quick |= target == LAID_OUT and kernel.rows > 0 and variant.name in WIDE
                if quick or not options.quick:
                    yield kernel, variant, target, blocks


def blocks_of(kernel: Kernel, target: str) -> Blocks | None:
    """Launch parameters of a kernel on an architecture, else the default's; None for one warp."""
    if kernel.blocks is None:
        return None
    table = block_table()
    return table.get(target, {}).get(kernel.blocks) or table["default"][kernel.blocks]


def binary_of(
    function: Any,
    signature: tuple[Mapping[str, str], Mapping[str, Any], Sequence[str]],
    target: str,
    blocks: Blocks | None,
) -> Any:
    """Compile a `triton.jit` function.

    Args:
        function: to compile.
        signature: types, constants, arguments divisible by 16, by name.
        target: a key of TARGETS.
        blocks: launch parameters; None for one warp.
    """
    types, constants, divisible = signature
    names = list(types)
    source = ASTSource(
        function,
        types,
        {(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible},
    )
    limit = {"maxnreg": blocks.max_registers} if blocks and blocks.max_registers else {}
    options = {"num_warps": blocks.num_warps if blocks else 1, **limit}
    return triton.compile(source, target=TARGETS[target], options=options)


def compiled(kernel: Kernel, variant: Variant, target: str, blocks: Blocks | None) -> Build:
    """Compile one variant for a target and read its resources."""
    arguments = signature(kernel, variant, blocks.block_v if blocks else None)
    binary = binary_of(kernel.function, arguments, target, blocks)
    resources, listing = (_sass.nvidia if TARGETS[target].backend == "cuda" else _sass.amd)(binary)
    loop = _sass.main_loop(listing) if kernel.rows else None
    access = _sass.accesses(listing, loop.body) if loop else _sass.Access([], [])
    shared = int(binary.metadata.shared)
    return Build(
        kernel.name,
        variant.name,
        target,
        blocks,
        resources,
        shared,
        resident_warps(target, resources.registers, shared, blocks.num_warps if blocks else 1),
        tuple(sorted(access.loads)),
        tuple(sorted(access.stores)),
        kernel.rows > 0
        and (variant.layout in ("aligned", "narrow") or variant.options["LOCKSTEP"])
        and variant.layout != "single",
        # A stride that is widened to 64 bits is no direct operand of a multiplication.
        re.search(r"arith\.muli [^:\n]*%\w*stride_[nv]\b", binary.asm["ttir"]) is not None,
    )


def broken_rules(build: Build) -> list[str]:
    """Describe the rules that a build breaks; empty if none."""
    faults = []
    spill = build.resources
    # A stack frame that no instruction uses is not a spill.
    if spill.spill_moves:
        faults.append(
            f"spills ({spill.spill_bytes} bytes per thread, {spill.spill_moves} moves, {spill.registers} "
            "registers); give the architecture a smaller tile or more warps in blocks.json"
        )
    if build.short_offsets:
        faults.append("multiplies a row by its stride in 32 bits; widen the row with .to(tl.int64)")
    if build.wide and not build.loads:
        faults.append("no loop that loads from global memory")
    narrow = [bits for bits in build.loads + build.stores if bits < SIXTEEN_BYTES]
    if build.wide and narrow:
        faults.append(f"moves {min(narrow) // 8} bytes at a time in its main loop; 16 are required")
    return faults


def resident_warps(target: str, registers: int, shared: int, warps: int) -> int:
    """Warps (waves) of a build that a multiprocessor (compute unit) holds.

    Args:
        target: a key of TARGETS.
        registers: per thread.
        shared: bytes per program.
        warps: per program.
    """
    if target.startswith("gfx"):
        # Four SIMDs with 512 registers per lane each, in units of 8; at most 8 waves.
        room = 4 * min(8, 512 // (8 * math.ceil(max(registers, 1) / 8)))
    else:
        # 65,536 registers, in units of 256 per warp; four schedulers hold equally many warps; at most 64.
        room = min(64, 65536 // (256 * math.ceil(max(registers, 1) / 8)) // 4 * 4)
    # 32 programs (16 on AMD); on NVIDIA each reserves 1 KiB of shared memory beyond its own.
    programs = min(16 if target.startswith("gfx") and warps > 1 else 32, room // warps)
    reserved = shared + (0 if target.startswith("gfx") else 1024)
    if reserved:
        programs = min(programs, SHARED_BYTES[target] // reserved)
    return programs * warps


if __name__ == "__main__":
    sys.exit(main())

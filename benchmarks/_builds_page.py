"""Write docs/kernels/builds.md: one section per Triton version, replaced when that version runs."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks import _sass
    from tide_kernels._shared.launch import Blocks

METHOD = """# Kernel builds

Written by `make builds` (`make builds TRITON=3.6.0` for another Triton version); no GPU was involved.
Every kernel is compiled ahead of time in every variant of `benchmarks/_kernel_variants.py`: labels and mask
on and off, T = 1, 2 and any, one program per row and several, bf16, fp16 and fp32, and four layouts. The
command fails on a spill, on a 32-bit product of a row and its stride (past 2**31 at row 14,135 of a
151,936-entry vocabulary) and, in variants that must move 16 bytes, on a narrower load or store in the main
loop. These are bf16 and fp32 rows whose strides are multiples of 16 (V = 151,936, and 151,646 of 151,936
entries), and other rows (V = 151,646, contiguous) if all tensors share their alignment.

Each row is the worst case over a kernel's variants.

- **registers**: per thread; NVIDIA's from `cuobjdump`, AMD's from the assembly's metadata.
- **spills**: bytes of stack (scratch) per thread / instructions that move data there (`LDL` and `STL` in
  `nvdisasm`'s listing; AMD's `.vgpr_spill_count`), which must be 0. In brackets: scalar registers that AMD's
  compiler keeps in lanes of vector registers, which move no memory and are not counted as spills.
- **shared**: bytes per program.
- **warps**: how many of a multiprocessor's 64 (compute unit's 32) warps fit, by registers and shared
  memory. A bound, not a measurement.
- **load, store**: bytes per thread and instruction in the main loop, the narrowest over the variants that
  must move 16.

`-`: the kernel has no loop over the vocabulary.
"""
HEADING = "## Triton "


class Build(NamedTuple):
    """Result of one compilation."""

    kernel: str
    variant: str
    target: str
    blocks: Blocks | None
    resources: _sass.Resources
    shared: int  # bytes a program
    warps: int  # a multiprocessor can hold
    loads: tuple[int, ...]  # bits per thread, in the main loop
    stores: tuple[int, ...]
    wide: bool  # must load and store 16 bytes at a time
    short_offsets: bool  # some product of a row and its stride is an int32

    def __str__(self) -> str:
        blocks = f", {self.blocks.block_v} columns / {self.blocks.num_warps} warps" if self.blocks else ""
        return f"{self.kernel} ({self.variant}) for {self.target}{blocks}"


def section(builds: Sequence[Build], triton: str, torch: str) -> str:
    """Table with the worst case over variants, a row per kernel and target.

    Args:
        builds: of all kernels.
        triton: version.
        torch: version.
    """
    columns = ["kernel", "target", "columns / warps", "registers", "spills", "shared", "warps"]
    columns += ["load", "store"]
    lines = [f"{HEADING}{triton}", "", f"{len(builds)} builds; torch {torch}.", ""]
    lines += [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for _, group in groupby(builds, key=lambda b: (b.kernel, b.target, b.blocks)):
        lines.append(_row(list(group)))
    return METHOD + "\n" + "\n".join(lines) + "\n"


def replace_section(page: Path, triton: str, text: str) -> None:
    """Write a page: the new text and the unchanged sections of other versions.

    Args:
        page: may not exist yet.
        triton: version whose section is replaced.
        text: method and section.
    """
    method, new = text.split(f"\n{HEADING}", 1)
    sections = {triton: new.rstrip()}
    if page.exists():
        for old in page.read_text().split(f"\n{HEADING}")[1:]:
            sections.setdefault(old.split("\n", 1)[0].strip(), old.rstrip())
    ordered = sorted(sections, key=lambda v: [int(n) for n in re.findall(r"\d+", v)], reverse=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(method + "".join(f"\n{HEADING}{sections[version]}\n" for version in ordered))


def _row(builds: list[Build]) -> str:
    first = builds[0]
    worst = [max(column) for column in zip(*(b.resources for b in builds), strict=True)]
    wide = [b for b in builds if b.wide]
    return (
        f"| {first.kernel} | {first.target} "
        f"| {f'{first.blocks.block_v} / {first.blocks.num_warps}' if first.blocks else '- / 1'} "
        f"| {worst[0]} | {worst[1]} / {worst[2]}{f' ({worst[3]})' if worst[3] else ''} "
        f"| {max(b.shared for b in builds)} | {min(b.warps for b in builds)} "
        f"| {_narrowest([bits for b in wide for bits in b.loads])} "
        f"| {_narrowest([bits for b in wide for bits in b.stores])} |"
    )


def _narrowest(bits: list[int]) -> str:
    return str(min(bits) // 8) if bits else "-"

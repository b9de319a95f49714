"""Read compiled kernels: registers, spills, the main loop, its loads and stores.

`cuobjdump` and `nvdisasm`, which come with Triton, list NVIDIA's machine code (SASS); Triton keeps AMD's
assembly as text. Neither needs a GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Bits that an instruction moves per thread if its name does not tell: a 32-bit register.
REGISTER_BITS = 32
AMD_BITS = {"ubyte": 8, "sbyte": 8, "ushort": 16, "sshort": 16, "byte": 8, "short": 16, "dword": 32}


class Resources(NamedTuple):
    """Resources of one build."""

    registers: int  # per thread
    spill_bytes: int  # per thread: stack frame or scratch
    spill_moves: int  # loads and stores of spilled registers
    lane_spills: int  # scalar registers kept in lanes of vector registers (AMD); no memory traffic


class Instruction(NamedTuple):
    """One line of a listing."""

    opcode: str
    predicated: bool
    text: str
    label: str | None  # jump target


class Listing(NamedTuple):
    """A kernel's instructions, and the index of each label."""

    instructions: list[Instruction]
    labels: dict[str, int]


class Access(NamedTuple):
    """Global loads and stores in a range of code, in bits per thread."""

    loads: list[int]
    stores: list[int]


def nvidia(build: Any) -> tuple[Resources, Listing]:
    """Resources and listing of a CUDA build from `triton.compile`."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(build.asm["cubin"])
        file.flush()
        usage = _run(TOOLS / "cuobjdump", "--dump-resource-usage", file.name)
        text = _run(TOOLS / "nvdisasm", "-c", file.name)
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if match is None:
        raise ValueError(f"kernel_builds: cuobjdump names no registers; got {usage!r}")
    listing = parse_sass(text)
    # LOCAL of the usage line stays 0 if registers spill.
    moves = sum(i.opcode.split(".")[0] in ("LDL", "STL") for i in listing.instructions)
    return Resources(int(match[1]), int(match[2]), moves, 0), listing


def amd(build: Any) -> tuple[Resources, Listing]:
    """Resources and listing of a HIP build from `triton.compile`."""
    text = build.asm["amdgcn"]

    def figure(name: str) -> int:
        match = re.search(rf"^\s+\.{name}:\s+(\d+)", text, re.MULTILINE)
        if match is None:
            raise ValueError(f"kernel_builds: the assembly names no .{name}")
        return int(match[1])

    listing = parse_amdgcn(text)
    scratch = figure("private_segment_fixed_size")
    moves = figure("vgpr_spill_count") + sum(i.opcode.startswith("scratch_") for i in listing.instructions)
    return Resources(figure("vgpr_count"), scratch, moves, figure("sgpr_spill_count")), listing


def parse_sass(text: str) -> Listing:
    """Parse the output of `nvdisasm -c`."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?(\S+)(.*?);", line):
            target = re.search(r"`\((\.L_\w+)\)", found[3])
            jumps = found[2].split(".")[0] == "BRA"
            instructions.append(
                Instruction(
                    found[2],
                    # A uniform predicate is one of the operands.
                    found[1] is not None or (jumps and not found[3].strip().startswith("`")),
                    found[3].strip(),
                    target[1] if target and jumps else None,
                )
            )
    return Listing(instructions, labels)


def parse_amdgcn(text: str) -> Listing:
    """Parse AMD's assembly of one kernel."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.split("s_endpgm")[0].splitlines():
        if label := re.match(r"(\.LBB\w+):", line):
            labels[label[1]] = len(instructions)
        elif found := re.match(r"\s+([a-z]\w+)\s*([^;]*)", line):
            target = re.match(r"(\.LBB\w+)", found[2])
            conditional = found[1].startswith("s_cbranch")
            instructions.append(
                Instruction(found[1], conditional, found[2].strip(), target[1] if target else None)
            )
    return Listing(instructions, labels)


def main_loop(listing: Listing) -> range | None:
    """The innermost loop around the first global load in a loop: kernels read whole tiles first."""
    loops: dict[int, range] = {}
    for index, instruction in enumerate(listing.instructions):
        start = listing.labels.get(instruction.label or "", len(listing.instructions))
        if instruction.opcode == "EXIT" and not instruction.predicated:
            break  # followed by blocks for diverged warps, which jump back but are not loops
        if start <= index:
            # Several jumps back to one head are one loop.
            loops[start] = range(start, index + 1)
    loads = (
        [loop for loop in loops.values() if index in loop]
        for index in range(len(listing.instructions))
        if accesses(listing, range(index, index + 1)).loads
    )
    around = next((found for found in loads if found), [])
    return max(around, key=lambda loop: loop.start, default=None)


def accesses(listing: Listing, where: range) -> Access:
    """Global loads and stores among the instructions `where`."""
    found = Access([], [])
    for index in where:
        opcode = listing.instructions[index].opcode
        if match := re.match(r"(LDG|STG)\b(.*)", opcode):
            parts = match[2].split(".")
            width = next((int(p) for p in parts if p in ("64", "128", "256")), REGISTER_BITS)
            width = next((int(p[1:]) for p in parts if p in ("U8", "S8", "U16", "S16")), width)
            (found.loads if match[1] == "LDG" else found.stores).append(width)
        elif match := re.match(r"(?:global|buffer)_(load|store)_([a-z]+?)(?:x(\d))?(?:_d16\w*)?$", opcode):
            width = AMD_BITS.get(match[2], REGISTER_BITS) * int(match[3] or 1)
            (found.loads if match[1] == "load" else found.stores).append(width)
    return found


def path_lengths(listing: Listing, loop: range) -> tuple[int, int]:
    """Instructions of one pass through a loop: (fewest, most without rare blocks).

    A rare block is skipped whole by a forward branch, an `if` without `else`: entries at -inf, the label's
    tile. Of an `if` with `else` the first number takes the shorter side, the second the longer.

    Args:
        listing: of a kernel.
        loop: from `main_loop`; its last instruction jumps back.
    """
    fewest: dict[int, int] = {loop.start: 0}
    most: dict[int, int] = {loop.start: 0}
    for index in loop:
        instruction = listing.instructions[index]
        target = listing.labels.get(instruction.label or "", -1)
        # `BRA.DIV` is taken by diverged warps only.
        jumps = target in loop and target > index and ".DIV" not in instruction.opcode
        falls = not (_leaves(instruction) and not instruction.predicated)
        steps = ([target] if jumps else []) + ([index + 1] if falls else [])
        _relax(fewest, index, steps, min)
        rare = jumps and falls and not _has_else(listing, range(index + 1, target))
        _relax(most, index, [target] if rare else steps, max)
    return fewest[loop.stop - 1] + 1, most[loop.stop - 1] + 1


def _relax(lengths: dict[int, int], index: int, steps: list[int], choose: Any) -> None:
    if index in lengths:
        for step in steps:
            length = lengths[index] + 1
            lengths[step] = choose(lengths.get(step, length), length)


def _has_else(listing: Listing, block: range) -> bool:
    """True if the skipped block ends with a jump over an `else`."""
    last = listing.instructions[block.stop - 1]
    return _leaves(last) and not last.predicated


def _leaves(instruction: Instruction) -> bool:
    return instruction.opcode.split(".")[0] in ("BRA", "EXIT", "s_branch")


def _run(tool: Path, *arguments: str) -> str:
    return subprocess.run([str(tool), *arguments], capture_output=True, text=True, check=True).stdout

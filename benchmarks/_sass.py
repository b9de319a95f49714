"""Read compiled kernels: registers, spills, loops, their loads, stores and paths.

`cuobjdump` and `nvdisasm`, which come with Triton, list NVIDIA's machine code (SASS); Triton keeps AMD's
assembly as text. Neither needs a GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Bits that an instruction moves per thread if its name does not tell: a 32-bit register.
REGISTER_BITS = 32
AMD_BITS = {"ubyte": 8, "sbyte": 8, "ushort": 16, "sshort": 16, "byte": 8, "short": 16, "dword": 32}
# Instructions that bring data from other lanes and warps.
EXCHANGES = ("SHFL", "BAR")
# Blocks without `else` that a path may have to enter before it does a tile's work.
MOST_RARE_BLOCKS = 3


class Resources(NamedTuple):
    """Resources of one build."""

    registers: int  # per thread
    spill_bytes: int  # per thread: stack frame or scratch
    spill_moves: int  # loads and stores of spilled registers
    lane_spills: int  # scalar registers kept in lanes of vector registers (AMD); no memory traffic


class Control(NamedTuple):
    """Scheduling of a SASS instruction. Six scoreboards count what is under way; 7 stands for none."""

    stall: int  # cycles until the warp may issue again
    write: int  # scoreboard that is released when the result arrives
    read: int  # scoreboard that is released when the operands have been read
    wait: int  # bit mask of the scoreboards to wait for

    @classmethod
    def decoded(cls, word: int) -> Control:
        """From the upper 64 bits of an encoding, which are the same since Volta."""
        return cls(word >> 41 & 15, word >> 46 & 7, word >> 49 & 7, word >> 52 & 63)


class Instruction(NamedTuple):
    """One instruction of a listing."""

    opcode: str
    predicated: bool
    text: str
    label: str | None  # jump target
    control: Control = Control(1, 7, 7, 0)  # of SASS

    @property
    def name(self) -> str:
        """The opcode without its modifiers."""
        return self.opcode.split(".")[0]


class Listing(NamedTuple):
    """A kernel's instructions, and the index of each label."""

    instructions: list[Instruction]
    labels: dict[str, int]


class Loop(NamedTuple):
    """A loop: index of its first instruction; instructions outside the loops within it, in program order."""

    head: int
    body: tuple[int, ...]


class Access(NamedTuple):
    """Global loads and stores in a stretch of code, in bits per thread."""

    loads: list[int]
    stores: list[int]


def nvidia(build: Any) -> tuple[Resources, Listing]:
    """Resources and listing of a CUDA build from `triton.compile`."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(build.asm["cubin"])
        file.flush()
        usage = _run(TOOLS / "cuobjdump", "--dump-resource-usage", file.name)
        text = _run(TOOLS / "nvdisasm", "-c", "-hex", file.name)
    match = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if match is None:
        raise ValueError(f"kernel_builds: cuobjdump names no registers; got {usage!r}")
    listing = parse_sass(text)
    # LOCAL of the usage line stays 0 if registers spill.
    moves = sum(i.name in ("LDL", "STL") for i in listing.instructions)
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
    """Parse the output of `nvdisasm -c`; with `-hex`, control codes too."""
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
        elif word := re.match(r"\s+/\* 0x([0-9a-f]{16}) \*/", line):
            # The upper half of the encoding follows on a line of its own.
            instructions[-1] = instructions[-1]._replace(control=Control.decoded(int(word[1], 16)))
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


def loops(listing: Listing) -> list[Loop]:
    """Loops of the code that undiverged warps reach, in program order."""
    before: dict[int, list[int]] = {}
    latches: dict[int, list[int]] = {}  # by head: the instructions that jump back to it
    opened, closed = {0}, set()
    stack = [(0, iter(_successors(listing, 0)))]
    while stack:
        index, rest = stack[-1]
        step = next(rest, None)
        if step is None:
            closed.add(stack.pop()[0])
            continue
        before.setdefault(step, []).append(index)
        if step not in opened:
            opened.add(step)
            stack.append((step, iter(_successors(listing, step))))
        elif step not in closed:
            # Code laid out behind the loop that it belongs to jumps back, too, but to nothing still open.
            latches.setdefault(step, []).append(index)
    bodies = {head: _reaching(before, head, ends) for head, ends in latches.items()}
    return [
        Loop(
            head,
            tuple(sorted(body - {i for inner, b in bodies.items() if inner in body - {head} for i in b})),
        )
        for head, body in sorted(bodies.items())
    ]


def main_loop(listing: Listing) -> Loop | None:
    """The loop with the widest global loads; of several, the first without exchanges, else the first.

    Loops over remaining columns load single entries; a loop over tiles that are summed apart, in a kernel
    that sums most in its lanes, exchanges between them; loops that read a row again come later.
    """

    def rank(loop: Loop) -> tuple[int, bool]:
        exchanges = any(listing.instructions[index].name in EXCHANGES for index in loop.body)
        return -max(accesses(listing, loop.body).loads), exchanges

    loading = (loop for loop in loops(listing) if accesses(listing, loop.body).loads)
    return min(loading, key=rank, default=None)


def accesses(listing: Listing, where: Iterable[int]) -> Access:
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


def paths(listing: Listing, loop: Loop, rare: int) -> Iterator[list[int]]:
    """Ways from a loop's head back to it past the loops within it, as indices of instructions.

    rare: how many blocks to enter that a forward branch may skip whole, an `if` without `else`: entries at
    -inf, the label's tile.
    """
    inside = set(loop.body) - {loop.head}
    stack = [(loop.head, list[int](), 0)]
    while stack:
        index, path, entered = stack.pop()
        path.append(index)
        steps = _successors(listing, index)
        if loop.head in steps and entered == rare:
            yield path.copy()
        onward = [step for step in steps if step in inside]
        skips = len(onward) == 2 and onward[1] > index and not _has_else(listing, range(*onward))
        for step in onward:
            cost = entered + (skips and step == index + 1)
            if cost <= rare:
                stack.append((step, path if step == onward[-1] else path.copy(), cost))


def hot_paths(listing: Listing, loop: Loop, entry_bits: int) -> list[list[int]]:
    """SASS paths that do a tile's work, with as few rare blocks as can be; by length, one of each length.

    A path does the work if it takes an exponential per entry; others leave the tile to another loop. Where
    some paths exchange nothing between lanes, those that do are for few tiles.

    Args:
        listing: of a kernel.
        loop: to walk.
        entry_bits: that it loads per vocabulary entry.
    """

    def count(path: list[int], *names: str) -> int:
        return sum(listing.instructions[index].name in names for index in path)

    found: list[list[int]] = []
    for rare in range(MOST_RARE_BLOCKS + 1):
        for path in paths(listing, loop, rare):
            loads = sum(accesses(listing, path).loads)
            if loads and count(path, "MUFU") >= loads / entry_bits:
                found.append(path)
        if found:
            break
    quiet = [path for path in found if not count(path, *EXCHANGES)]
    return [path for _, path in sorted({len(path): path for path in quiet or found}.items())]


def _successors(listing: Listing, index: int) -> list[int]:
    """The next instruction, unless it is never reached from here, and the target of a jump."""
    instruction = listing.instructions[index]
    steps = [] if _leaves(instruction) and not instruction.predicated else [index + 1]
    # `BRA.DIV` is taken by diverged warps only.
    if instruction.label in listing.labels and ".DIV" not in instruction.opcode:
        steps.append(listing.labels[instruction.label])
    return [step for step in dict.fromkeys(steps) if step < len(listing.instructions)]


def _reaching(before: dict[int, list[int]], head: int, ends: list[int]) -> set[int]:
    """Instructions from which `ends` are reached without passing `head`, and `head`."""
    found, todo = {head}, list(ends)
    while todo:
        index = todo.pop()
        if index not in found:
            found.add(index)
            todo += before.get(index, ())
    return found


def _has_else(listing: Listing, block: range) -> bool:
    """True if the skipped block ends with a jump over an `else`."""
    last = listing.instructions[block.stop - 1]
    return _leaves(last) and not last.predicated


def _leaves(instruction: Instruction) -> bool:
    return instruction.name in ("BRA", "EXIT", "RET", "s_branch")


def _run(tool: Path, *arguments: str) -> str:
    return subprocess.run([str(tool), *arguments], capture_output=True, text=True, check=True).stdout

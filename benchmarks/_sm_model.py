"""Replay a loop of SASS on a model of one multiprocessor of an H200.

Four schedulers issue one instruction a cycle each: from the warp that issued last while it can, else from the
first that can. A warp waits for the stall counts and scoreboards in the instructions' encoding (Jia et al.,
arXiv 1804.06826), for a free pipe, and at barriers. Memory is a queue with a bandwidth and a latency; there
are no caches. The figures below are estimates: nothing was calibrated on a device.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks._sass import Listing, accesses

LANES = 32
SCHEDULERS = 4
MULTIPROCESSORS = 132
GIGAHERTZ = 1.75
# Of one multiprocessor: 4.2 TB/s over 132 at 1.75 GHz.
BYTES_PER_CYCLE = 18.2
# Cycles from a load's turn in the queue to its result: idle memory, and memory under load.
MEMORY_LATENCIES = (550, 900)
BARRIER_CYCLES = 20
# Cycles of work that may wait in a queue before its pipe refuses more.
MEMORY_QUEUE = 1500
SHARED_QUEUE = 8
# Cycles until a scoreboard of operands is released: registers are read, a store's data has left.
OPERANDS_READ = 12
DATA_READ = 30
# Programs start at random up to this cycle.
LATEST_START = 3000


class Pipe(NamedTuple):
    """An execution unit, of each scheduler."""

    opcodes: re.Pattern[str]
    interval: int  # cycles before it takes the next instruction of a warp
    latency: int  # cycles until the result, where a scoreboard tells


PIPES = {
    "FMA": Pipe(re.compile(r"(FFMA|FADD|FMUL|HFMA|HADD|HMUL)(2|32I)?$"), 1, 4),
    "IMAD": Pipe(re.compile(r"IMAD|FSWZADD"), 2, 5),
    "MUFU": Pipe(re.compile(r"(MUFU|F2I|I2F|F2F)$"), 8, 24),
    "SHFL": Pipe(re.compile(r"SHFL"), 2, 26),
    "shared": Pipe(re.compile(r"LDS|STS|LDC|LDL|STL"), 2, 30),
    "memory": Pipe(re.compile(r"LDG|STG"), 4, 0),
    "barrier": Pipe(re.compile(r"BAR$"), 1, BARRIER_CYCLES),
    "control": Pipe(re.compile(r"BRA|EXIT|BSSY|BSYNC|WARPSYNC|NOP|CALL|RET|BREAK|DEPBAR|YIELD"), 1, 0),
    "uniform": Pipe(re.compile(r"U[A-Z]|R2UR|S2UR|VOTEU"), 1, 12),
    "REDUX": Pipe(re.compile(r"REDUX"), 8, 24),
    # All others: comparisons, selections, conversions, integers.
    "ALU": Pipe(re.compile(""), 2, 5),
}
# Pipes that share the port to the memory units, and those that also share one queue of all schedulers.
PORT = ("SHFL", "shared", "memory")
QUEUED = ("SHFL", "shared")


class Step(NamedTuple):
    """One instruction of a path."""

    pipe: str
    stall: int  # cycles
    write: int
    read: int
    wait: tuple[int, ...]  # scoreboards; write, read: 7 for none
    num_bytes: int  # of global memory, a warp
    store: bool


def pipe_of(name: str) -> str:
    """Key in PIPES of an opcode without modifiers."""
    return next(pipe for pipe, of in PIPES.items() if of.opcodes.match(name))


def steps_of(listing: Listing, path: Sequence[int]) -> list[Step]:
    """What the model needs to know of a path."""
    steps = []
    for index in path:
        instruction = listing.instructions[index]
        control, access = instruction.control, accesses(listing, [index])
        steps.append(
            Step(
                pipe_of(instruction.name),
                max(1, control.stall),
                control.write,
                control.read,
                tuple(board for board in range(6) if control.wait >> board & 1),
                sum(access.loads + access.stores) // 8 * LANES,
                bool(access.stores),
            )
        )
    return steps


def replay(
    steps: Sequence[Step],
    warps: int,
    programs: int,
    memory_latency: float,
    bytes_per_cycle: float = BYTES_PER_CYCLE,
    passes: int = 24,
) -> float:
    """Cycles that a multiprocessor takes for one pass of one warp through a loop, in the steady state.

    Args:
        steps: of the loop.
        warps: of a program; they meet at barriers.
        programs: resident at a time.
        memory_latency: cycles.
        bytes_per_cycle: of global memory.
        passes: of each warp; the middle half is timed.
    """
    count = warps * programs
    draw = random.Random(0)
    starts = [float(draw.randrange(LATEST_START)) for _ in range(programs)]
    ready = [starts[warp // warps] for warp in range(count)]
    position = [0] * count
    boards = [[0.0] * 8 for _ in range(count)]
    free = [dict.fromkeys([*PIPES, "port"], 0.0) for _ in range(SCHEDULERS)]
    of_scheduler = [[w for w in range(count) if w % SCHEDULERS == s] for s in range(SCHEDULERS)]
    last = [of[:1] for of in of_scheduler]
    due = [min((ready[w] for w in of), default=math.inf) for of in of_scheduler]
    waiting = [0] * programs
    shared = memory = 0.0
    done, begin, begin_done = 0, 0.0, 0
    while True:
        now = min(due)
        scheduler = due.index(now)
        pipes = free[scheduler]
        wake = math.inf
        for warp in last[scheduler] + of_scheduler[scheduler]:
            pipe = steps[position[warp]].pipe
            at = max(ready[warp], pipes["port" if pipe in PORT else pipe])
            if pipe in QUEUED:
                at = max(at, shared - SHARED_QUEUE)
            elif pipe == "memory":
                at = max(at, memory - MEMORY_QUEUE)
            if at <= now:
                break
            wake = min(wake, at)
        else:
            due[scheduler] = wake
            continue
        _, stall, write, read, _, num_bytes, store = steps[position[warp]]
        last[scheduler] = [warp]
        due[scheduler] = now + 1
        _, interval, latency = PIPES[pipe]
        pipes["port" if pipe in PORT else pipe] = now + interval
        result = now + latency
        if pipe in QUEUED:
            shared = max(shared, now) + 1
            result = shared - 1 + latency
        elif pipe == "memory":
            memory = max(memory, now) + num_bytes / bytes_per_cycle
            result = now + DATA_READ if store else memory + memory_latency
        board = boards[warp]
        board[write] = max(board[write], result)
        operands = now + (DATA_READ if store else OPERANDS_READ)
        board[read] = max(board[read], operands)
        position[warp] += 1
        if position[warp] == len(steps):
            position[warp] = 0
            done += 1
            if done == count * passes // 4:
                begin, begin_done = now, done
            if done == count * passes * 3 // 4:
                return (now - begin) / (done - begin_done)
        ready[warp] = now + stall
        for index in steps[position[warp]].wait:
            ready[warp] = max(ready[warp], board[index])
        if pipe == "barrier" and warps > 1:
            program = warp // warps
            waiting[program] += 1
            if waiting[program] < warps:
                ready[warp] = math.inf
                continue
            waiting[program] = 0
            for other in range(program * warps, (program + 1) * warps):
                ready[other] = now + latency
                for index in steps[position[other]].wait:
                    ready[other] = max(ready[other], boards[other][index])
                due[other % SCHEDULERS] = min(due[other % SCHEDULERS], ready[other])

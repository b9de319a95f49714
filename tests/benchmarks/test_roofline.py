"""SASS is counted by path and pipe, the model agrees with arithmetic, and a loop over its budget fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks import _sass, _sm_model, roofline
from benchmarks._sm_model import Step, replay

ROOT = Path(__file__).resolve().parents[2]
# Half an entry's work each: one exponential, one shift of a 32-bit pair.
LOAD = ["LDG.E.128 R4, desc[UR4][R2.64]"]
WORK = [line for _ in range(8) for line in ("IMAD.U32 R8, R4, 0x10000, RZ", "MUFU.EX2 R8, R8")]


def listing(*lines, **controls):
    """Parse lines as nvdisasm prints them: a label, or an instruction with a predicate.

    controls: upper word of the encoding by index, `i3=0x...`.
    """
    text, count = [], 0
    for line in lines:
        if line.startswith(".L_"):
            text.append(f"{line}:")
        else:
            text.append(f"        /*{16 * count:04x}*/  {line} ;  /* 0x{0:016x} */")
            text.append(f"                              /* 0x{controls.get(f'i{count}', 1 << 41):016x} */")
            count += 1
    return _sass.parse_sass("\n".join(text))


def hot(code, entry_bits=16):
    """Hot paths through the main loop, as lists of opcodes."""
    paths = _sass.hot_paths(code, _sass.main_loop(code), entry_bits)
    return [[code.instructions[index].opcode for index in path] for path in paths]


def alu(**changes):
    return Step("ALU", 1, 7, 7, (), 0, False)._replace(**changes)


def test_control_codes():
    # Stall 5, write board 2, no read board, wait for boards 0 and 3.
    code = listing("MUFU.EX2 R0, R0", i0=5 << 41 | 2 << 46 | 7 << 49 | 0b1001 << 52)
    assert code.instructions[0].control == _sass.Control(5, 2, 7, 0b1001)
    (step,) = _sm_model.steps_of(code, [0])
    assert step == Step("MUFU", 5, 2, 7, (0, 3), 0, False)


@pytest.mark.parametrize(
    ("opcode", "pipe"),
    [
        ("FFMA", "FMA"),
        ("HFMA2", "FMA"),
        ("IMAD", "IMAD"),
        ("FMNMX", "ALU"),
        ("F2FP", "ALU"),
        ("F2F", "MUFU"),
        ("SHFL", "SHFL"),
        ("LDS", "shared"),
        ("LDG", "memory"),
        ("BAR", "barrier"),
        ("BRA", "control"),
        ("UIADD3", "uniform"),
    ],
)
def test_pipes(opcode, pipe):
    assert _sm_model.pipe_of(opcode) == pipe


def test_bytes_of_a_warp():
    code = listing("LDG.E.128 R4, desc[UR4][R2.64]", "STG.E.U16 desc[UR4][R2.64], R4", "FADD R0, R0, R0")
    steps = _sm_model.steps_of(code, [0, 1, 2])
    assert [(step.num_bytes, step.store) for step in steps] == [(512, False), (64, True), (0, False)]


def test_paths_by_length_without_the_careful_one():
    """A loop of three ways: plain, twice the work, and a block of shuffles."""
    code = listing(
        "MOV R1, c[0x0][0x28]",
        ".L_head",
        *LOAD,
        "@P0 BRA `(.L_careful)",
        "@P1 BRA `(.L_near)",
        *WORK,
        "BRA `(.L_next)",
        ".L_near",
        *WORK,
        *WORK,
        "BRA `(.L_next)",
        ".L_careful",
        *WORK,
        "SHFL.BFLY PT, R8, R8, 0x1, 0x1f",
        ".L_next",
        "@P2 BRA `(.L_head)",
        "EXIT",
    )
    assert [len(path) for path in hot(code)] == [21, 37]
    assert all("SHFL.BFLY" not in path for path in hot(code))


def test_rare_blocks_and_idle_paths_are_left_out():
    code = listing(
        ".L_head",
        *LOAD,
        # Leaves the tile to another loop.
        "@P0 BRA `(.L_next)",
        *WORK,
        # The label's tile.
        "@!P1 BRA `(.L_next)",
        "FADD R0, R0, R0",
        ".L_next",
        "@P2 BRA `(.L_head)",
        "EXIT",
    )
    assert [len(path) for path in hot(code)] == [20]


def test_code_behind_the_exit_belongs_to_its_loop():
    code = listing(
        ".L_head",
        *LOAD,
        "@P1 BRA `(.L_far)",
        ".L_back",
        *WORK,
        "@P2 BRA `(.L_head)",
        "EXIT",
        ".L_far",
        "FADD R0, R0, R0",
        "BRA `(.L_back)",
    )
    assert [loop.head for loop in _sass.loops(code)] == [0]
    assert [len(path) for path in hot(code)] == [19, 21]


def test_the_main_loop_loads_widest_and_exchanges_nothing():
    code = listing(
        ".L_outer",
        ".L_main",
        *LOAD,
        *WORK,
        "@P0 BRA `(.L_main)",
        ".L_apart",
        *LOAD,
        "SHFL.BFLY PT, R8, R8, 0x1, 0x1f",
        "@P1 BRA `(.L_apart)",
        "@P2 BRA `(.L_outer)",
        ".L_rest",
        "LDG.E.U16 R4, desc[UR4][R2.64]",
        "@P3 BRA `(.L_rest)",
        "EXIT",
    )
    # The outer loop begins with the inner one's head.
    assert len(_sass.loops(code)) == 3
    loop = _sass.main_loop(code)
    assert loop.head == 0
    assert _sass.accesses(code, loop.body).loads == [128]
    assert [len(path) for path in hot(code)] == [18]


def test_issue_bounds_a_loop():
    # 16 FMAs that need nothing: 4 schedulers issue 4 a cycle.
    steps = [alu(pipe="FMA")] * 16
    assert replay(steps, 4, 4, 500) == pytest.approx(4, rel=0.02)
    # An ALU takes one every other cycle, a MUFU one in eight.
    assert replay([alu()] * 16, 4, 4, 500) == pytest.approx(8, rel=0.02)
    assert replay([alu(pipe="MUFU")] * 16, 4, 4, 500) == pytest.approx(32, rel=0.02)


def test_stalls_bound_a_single_warp():
    assert replay([alu(pipe="FMA", stall=4)] * 16, 1, 1, 500) == pytest.approx(64, rel=0.02)


def test_bandwidth_bounds_a_loop():
    steps = [alu(pipe="memory", num_bytes=512, write=0), alu(pipe="FMA", wait=(0,))]
    # 64 warps wait 500 cycles each: enough to keep 16 bytes a cycle busy.
    assert replay(steps, 1, 64, 500, bytes_per_cycle=16) == pytest.approx(512 / 16, rel=0.02)


def test_latency_bounds_a_loop():
    steps = [alu(pipe="memory", num_bytes=16, write=0), alu(pipe="FMA", wait=(0,))]
    # One warp: a cycle in the queue, 500 until the data arrive, a cycle for the FMA.
    assert replay(steps, 1, 1, 500, bytes_per_cycle=16) == pytest.approx(502, rel=0.02)


def test_warps_meet_at_a_barrier():
    steps = [alu(pipe="FMA", stall=10), alu(pipe="barrier")]
    # Two warps of one program on two schedulers: 10 cycles, then 20 for the barrier; per warp, half.
    assert replay(steps, 2, 1, 500) == pytest.approx(30 / 2, rel=0.02)


def row(**changes):
    usual = roofline.Row("reverse_kl_fwd", "plain", "near", 28.0, {"FMA": 9.0}, 0, 0, 4.0, 20, (1.0, 0.5))
    return usual._replace(**changes)


def test_budgets():
    assert not roofline.over_budget(row())
    (fault,) = roofline.over_budget(row(instructions=28.1))
    assert fault.startswith("reverse_kl_fwd (plain, near): 28.1 instructions") and fault.endswith("28")
    assert not roofline.over_budget(row(path="mixed", instructions=32))
    assert roofline.over_budget(row(path="mixed", instructions=32.1))
    assert not roofline.over_budget(row(kernel="reverse_kl_bwd", instructions=42))
    assert roofline.over_budget(row(kernel="reverse_kl_bwd", instructions=43))
    (fault,) = roofline.over_budget(row(barriers=2))
    assert fault.startswith("reverse_kl_fwd (plain, near): 2 barriers")


def test_a_row_of_a_barrier_loop():
    code = listing(".L_head", *LOAD, *WORK, "BAR.SYNC.DEFER_BLOCKING 0x0", "@P0 BRA `(.L_head)", "EXIT")
    loop = _sass.main_loop(code)
    (path,) = _sass.hot_paths(code, loop, 16)
    found = roofline.path_row("op_fwd", "plain", "", roofline.Built(code, 2, 16), path, 1)
    assert (found.instructions, found.num_bytes, found.barriers) == (19 / 8, 2.0, 1)
    assert (found.pipes["MUFU"], found.pipes["IMAD"]) == (1.0, 1.0)
    assert 0 < min(found.shares) <= 1
    assert roofline.over_budget(found) == ["op_fwd (plain): 1 barriers in the hot loop; the budget is 0"]


def test_the_page_says_what_it_is():
    text = roofline.page([row()], ["k (plain): 99 instructions"], ["liger KL is left out: TypeError"])
    assert "Predictions, not measurements" in text.split("## ")[0]
    assert "- k (plain): 99 instructions" in text and "- liger KL is left out: TypeError." in text
    # 4 bytes of 4096 x 151,936 entries at half of 4.2 TB/s.
    assert "| 28.0 | 9.0 | 0.0 | 0.0 | 0 | 0 | 4 | 20 | 100 | 50 | 1.18 |" in text


@pytest.mark.slow
def test_a_kernel_within_its_budget_passes():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.roofline", "--only", "token_logprob_bwd"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("| token_logprob_bwd "))
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    # No barrier, no shuffle; 2 bytes read and 2 written.
    assert cells[:3] == ["token_logprob_bwd", "plain", "-"] and cells[7:10] == ["0", "0", "4"]
    assert 5 < float(cells[3]) < roofline.BACKWARD_BUDGET

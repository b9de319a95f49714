"""Kernels compile for every architecture without spills and with 16-byte loads. No GPU is needed.

Each test runs the command in a new process: this one has imported the kernels for the interpreter.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]


def builds(*arguments):
    """(exit status, output) of `python -m benchmarks.kernel_builds`."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.kernel_builds", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_kernels_compile_for_one_architecture():
    """Every operation, with every layout of its rows, in one process."""
    status, output = builds("--quick", "--targets", "sm_90")
    assert status == 0, output
    assert "builds with triton" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "op",
    [
        "interpolated_kl",
        "reverse_kl",
        "token_logprob",
        "token_scores",
        "chunk_likelihood",
        "linear_token_logprob",
    ],
)
def test_kernels_compile_for_every_other_architecture(op):
    status, output = builds("--quick", "--targets", "sm_80", "sm_100", "gfx942", "--ops", op)
    assert status == 0, output
    assert "builds with triton" in output


def test_every_kernel_is_compiled():
    """A kernel missing from the list would pass every test above."""
    defined = {
        name
        for path in (ROOT / "tide_kernels").glob("*/kernels.py")
        for name in re.findall(r"^def (\w+)_kernel\(", path.read_text(), re.MULTILINE)
    }
    listed = (ROOT / "benchmarks" / "_kernel_variants.py").read_text()
    assert defined
    assert not {name for name in defined if f".{name}_kernel," not in listed}


@pytest.mark.slow
def test_a_spilling_build_fails():
    # 64 entries per thread of both sides do not fit 255 registers.
    tile = ("--block", "2048", "--warps", "1")
    status, output = builds("--quick", "--targets", "sm_80", "--ops", "reverse_kl", *tile)
    assert status == 1
    assert "reverse_kl_fwd (label) for sm_80, 2048 columns / 1 warps: spills" in output


@pytest.mark.slow
def test_narrow_loads_fail():
    # 32 threads share 128 entries: 8 bytes of bf16 each.
    tile = ("--block", "128", "--warps", "1")
    status, output = builds("--quick", "--targets", "sm_90", "--ops", "token_scores", *tile)
    assert status == 1
    for variant in ("plain", "narrow", "odd"):
        assert f"token_scores_fwd ({variant}) for sm_90, 128 columns / 1 warps: moves 8 bytes" in output


def test_interpreted_kernels_raise(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    command = [sys.executable, "-m", "benchmarks.kernel_builds"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "TRITON_INTERPRET is set" in done.stderr and "unset it" in done.stderr

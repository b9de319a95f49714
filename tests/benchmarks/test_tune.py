"""Tuning picks the fastest candidate with correct results."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import _timing, tune
from tests.kernels.cases import EPS32, relative
from tide_kernels import interpolated_kl
from tide_kernels._shared import launch
from tide_kernels._shared.launch import Blocks, block_table, blocks_for, using_blocks

CPU = torch.device("cpu")
KERNEL = "interpolated_kl_fwd"


def test_the_fastest_correct_candidate_comes_first(capsys, monkeypatch):
    def run():
        width = blocks_for(KERNEL, CPU).block_v
        if width == 64:
            raise RuntimeError("out of resources")
        return torch.ones(3) * (2.0 if width == 32 else 1.0)

    def clock(step):
        step.run(None)
        return cost[blocks.pop()], 0.0

    cost, blocks = {128: 3e-3, 256: 1e-3, 512: 2e-3}, []
    sound = tune.using_blocks
    monkeypatch.setattr(tune, "using_blocks", lambda kernel, b: blocks.append(b.block_v) or sound(kernel, b))
    monkeypatch.setattr(_timing, "_wall_clock", clock)
    candidates = tuple(Blocks(width, 1) for width in (32, 64, 128, 256, 512))
    medians = tune.best_blocks(KERNEL, run, 3, candidates, CPU)
    assert list(medians.items()) == [(Blocks(256, 1), 1.0), (Blocks(512, 1), 2.0), (Blocks(128, 1), 3.0)]
    printed = capsys.readouterr().out
    assert "64/1: RuntimeError, left out" in printed and "32/1: off by 1.0e+00, left out" in printed


def test_an_override_applies_inside_its_block(monkeypatch):
    student, teacher = torch.randn(2, 2, 200)
    expected = interpolated_kl(student, teacher, 0.5, backend="torch")
    with using_blocks(KERNEL, Blocks(32, 1)), using_blocks(KERNEL, Blocks(16, 1)):
        assert blocks_for(KERNEL, CPU) == Blocks(16, 1)
        assert relative(interpolated_kl(student, teacher, 0.5, backend="triton"), expected) < 64 * EPS32
    assert blocks_for(KERNEL, CPU) == block_table()["interpreter"][KERNEL]


@pytest.mark.slow
def test_every_kernel_of_the_table_has_work():
    assert list(block_table()["default"]) == list(block_table()["interpreter"])
    for kernel in block_table()["default"]:
        assert tune.work_of(kernel, 4, 50, "float32", CPU)().isfinite().all()


def test_only_the_section_of_this_architecture_is_rewritten(tmp_path):
    path = tmp_path / "blocks.json"
    path.write_text(launch.TABLE.read_text())
    tune.write_table(path, "sm_90", {KERNEL: Blocks(2048, 2)})
    before, after = json.loads(launch.TABLE.read_text()), json.loads(path.read_text())
    assert after.pop("sm_90") == {KERNEL: {"block_v": 2048, "num_warps": 2}}
    before.pop("sm_90", None)
    assert after == before


def test_register_limits_are_tried_and_reach_only_nvidias_compiler(monkeypatch):
    limited = [blocks for blocks in tune.candidates_for(KERNEL) if blocks.max_registers]
    assert [blocks._replace(max_registers=0) for blocks in limited] == list(tune.LIMITED)
    assert tune.candidates_for("token_logprob_fwd") == tune.CANDIDATES
    assert tune.named(Blocks(512, 2, 128)) == "512/2/128"
    # AMD's compiler rejects the option.
    monkeypatch.setattr(torch.version, "cuda", None)
    assert Blocks(512, 2, 128).options() == {"num_warps": 2}
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert Blocks(512, 2, 128).options() == {"num_warps": 2, "maxnreg": 128}
    assert Blocks(512, 2).options() == {"num_warps": 2}


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="no GPU here"):
        tune.main([])

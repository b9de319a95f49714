"""Benchmarks: byte formulas, the gate, rounds, the time budget, and a whole run on small shapes."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import _session, _timing, gpu
from benchmarks._cases import BOTH, FORWARD, Case
from benchmarks._gate import KINDS, errors_of, truth_of, verdict
from benchmarks._memory import CLEAR_REFS, can_reset_peak
from benchmarks._op import Contestant
from benchmarks._results import MEASURED, NOT_REACHED, RED, Store
from benchmarks._session import Session, measure_case, peaks_in_process
from benchmarks._timing import Copy, Rounds, Step, alternate, quantiles
from benchmarks.ops import OPS, load_op

CPU = torch.device("cpu")
ROUNDS = Rounds(0.0, 3, 3, 1)


def case_of(op, variant=None, mode=BOTH, dtype="float32", rows=6, vocab=700, width=None):
    if op == "chunk_likelihood":
        vocab = width = 0
    if op.startswith("linear_"):
        # Heads are read whole. d_s, d_t.
        hidden = (16, 0 if op == "linear_token_logprob" else 48)
        return Case(op, variant or op, rows, vocab, vocab, dtype, mode, 0, *hidden)
    return Case(op, variant or op, rows, vocab, vocab if width is None else width, dtype, mode)


TIDAL = case_of("interpolated_kl", "tidal")


@pytest.mark.parametrize(
    ("case", "num_bytes"),
    [
        # bf16 at width V: 4 and 10 bytes per element, and 2 and 6 where one side is read.
        (case_of("interpolated_kl", "tidal", FORWARD, "bfloat16", 3, 100), 3 * 100 * 4),
        (case_of("interpolated_kl", "tidal", BOTH, "bfloat16", 3, 100), 3 * 100 * 10),
        (case_of("reverse_kl", None, BOTH, "float32", 3, 100), 3 * 100 * 20),
        # The prefix is read, the whole width written.
        (case_of("reverse_kl", None, BOTH, "bfloat16", 3, 100, 110), 3 * (100 * 8 + 110 * 2)),
        (case_of("token_logprob", None, FORWARD, "bfloat16", 3, 100), 3 * 100 * 2),
        (case_of("token_logprob", None, BOTH, "bfloat16", 3, 100), 3 * 100 * 6),
        # 2 sequences of 512 tokens, 256 chunks each.
        (case_of("chunk_likelihood", "forward", FORWARD, rows=1024), 1024 * 24 + 512 * 5),
        (case_of("chunk_likelihood", "forward", BOTH, rows=1024), 1024 * 36 + 512 * 9),
        # Both sides read; the student's read again, and its gradients written.
        (case_of("linear_reverse_kl", None, FORWARD, "bfloat16", 3, 100), 103 * (16 + 48) * 2),
        (case_of("linear_reverse_kl", None, BOTH, "bfloat16", 3, 100), 103 * (3 * 16 + 48) * 2),
        (case_of("linear_token_logprob", None, BOTH, "float32", 3, 100), 103 * 3 * 16 * 4),
    ],
)
def test_least_bytes(case, num_bytes):
    assert load_op(case.op).least_bytes(case) == num_bytes


@pytest.mark.parametrize(
    ("case", "num_flops"),
    [
        (case_of("linear_interpolated_kl", "linear_tidal", FORWARD, rows=3), 2 * 3 * 700 * (16 + 48)),
        (case_of("linear_interpolated_kl", "linear_tidal", BOTH, rows=3), 2 * 3 * 700 * (3 * 16 + 48)),
        (case_of("linear_token_logprob", None, FORWARD, rows=3), 2 * 3 * 700 * 16),
        (case_of("linear_token_logprob", None, BOTH, rows=3), 2 * 3 * 700 * 3 * 16),
    ],
)
def test_products_that_cannot_be_avoided(case, num_flops, monkeypatch):
    op = load_op(case.op)
    assert op.least_flops(case) == num_flops
    (products,) = (c for c in op.contestants if c.floor)
    # The products contestant runs that many operations.
    ran, mm = [], torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b, out: ran.append(2 * a.numel() * b.shape[1]) or mm(a, b, out=out)
    )
    products.build(case)(op.inputs(case, CPU, False))
    assert sum(ran) == num_flops


def judge(contestant, case, near=False):
    op = load_op(case.op)
    errors = {}
    for kind in KINDS if near else ("ordinary",):
        tensors = op.inputs(case, CPU, kind == "near")
        errors[kind] = errors_of(op, contestant.build(case), case, tensors, truth_of(op, case, tensors))
    return verdict(contestant, case, errors)


# Token log-probabilities are fp32. Mode forward compares the loss only, in the same code for every op.
GATED_CASES = [
    (c.name, op.name, variant, BOTH, dtype)
    for op in OPS
    for variant in dict.fromkeys(case.variant for case in op.cases("cpu", (8, 8)))
    for c in op.contestants
    if c.name in ("eager", "torch", "native", "tide")
    for dtype in (("float32",) if op.name == "chunk_likelihood" else ("float32", "bfloat16"))
] + [
    (name, op, variant, FORWARD, "float32")
    for name in ("eager", "torch")
    for op, variant in (("interpolated_kl", "tidal"), ("linear_token_logprob", None))
]


@pytest.mark.parametrize(("name", "op", "variant", "mode", "dtype"), GATED_CASES)
def test_the_gate_passes_correct_contestants(name, op, variant, mode, dtype):
    case = case_of(op, variant, mode, dtype, rows=8, vocab=700, width=700 if op == "calm" else 720)
    contestant = load_op(op).contestant(name)
    if reason := contestant.absent(case, CPU):
        pytest.skip(reason)
    assert judge(contestant, case, near=True) is None


def with_fault(fault):
    """The torch backend with a fault in its loss."""
    sound = load_op("interpolated_kl").contestant("torch")
    return dataclasses.replace(sound, build=lambda case: fault(case, sound.build(case)))


def drop_last_column(case, loss):
    narrow = dataclasses.replace(case, vocab=case.vocab - 1)
    return load_op("interpolated_kl").contestant("torch").build(narrow)


PEERS = [
    ("linear_interpolated_kl", "linear_forward_kl", "liger_fused_jsd"),
    ("linear_reverse_kl", None, "liger_fused_jsd"),
    ("linear_token_logprob", None, "liger_fused_cross_entropy"),
    ("linear_interpolated_kl", "linear_forward_kl", "trl_chunked_divergence"),
    ("linear_reverse_kl", None, "trl_chunked_divergence"),
    ("linear_token_logprob", None, "torch_linear_cross_entropy"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("op", "variant", "name"), PEERS)
def test_peers_compute_the_same_function(op, variant, name):
    # liger-kernel in the interpreter, so that a mistake shows before a GPU run.
    contestant, case = load_op(op).contestant(name), case_of(op, variant, rows=8)
    if name.startswith("liger"):
        pytest.importorskip("liger_kernel")
    elif reason := contestant.absent(case, CPU):
        pytest.skip(reason)
    assert judge(contestant, case) is None


def test_a_peer_that_computes_something_else_is_absent_with_the_reason():
    op = load_op("linear_interpolated_kl")
    case = case_of("linear_interpolated_kl", "linear_tidal")
    (reason,) = {c.absent(case, CPU) for c in op.contestants if c.name.startswith(("liger", "trl"))}
    assert "interpolated target" in reason


def test_a_gradient_that_is_wrong_for_one_of_two_inputs_is_red():
    op, case = load_op("linear_reverse_kl"), case_of("linear_reverse_kl")
    sound = op.contestant("torch")

    def build(case):
        loss = sound.build(case)
        # The value stays, the gradient of the head doubles.
        return lambda tensors: loss(tensors | {"weight": 2 * tensors["weight"] - tensors["weight"].detach()})

    assert judge(sound, case, near=True) is None
    assert "gradient error 1.0e+00" in judge(dataclasses.replace(sound, build=build), case)


@pytest.fixture(scope="module")
def measured():
    """Rows of `measure_case` by contestant, of contestants that replace an op's; without processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_timing.COPY_BYTES, "cpu", 1 << 20)
        copy = Copy(CPU)

    def measure(op, case, *entered, peaks=False):
        op = dataclasses.replace(op, contestants=entered)
        return {row["contestant"]: row for row in measure_case(op, case, CPU, ROUNDS, copy, peaks=peaks)}

    return measure


def test_a_contestant_that_cannot_be_built_is_absent(measured):
    op = load_op("linear_token_logprob")

    def build(case):
        raise ImportError("no such thing")

    row = measured(op, case_of(op.name), dataclasses.replace(op.contestant("eager"), build=build))["eager"]
    assert (row["status"], row["reason"]) == ("absent", "ImportError: no such thing")


def test_times_are_related_to_those_of_the_products(measured):
    op, case = load_op("linear_token_logprob"), case_of("linear_token_logprob", mode=FORWARD)
    rows = measured(op, case, op.contestant("gemms"), op.contestant("torch"))
    products, ours = rows["gemms"], rows["torch"]
    assert products["gemm_percent"] == 100 and products["loss_error"] is None and not products["ours"]
    assert ours["gemm_ms"] == products["median_ms"]
    assert ours["gemm_percent"] == pytest.approx(100 * products["median_ms"] / ours["median_ms"])
    assert ours["tflop_s"] == pytest.approx(2 * 6 * 700 * 16 / ours["median_ms"] * 1e-9)


def test_times_are_related_to_those_of_a_large_copy(measured):
    ours = measured(load_op("interpolated_kl"), TIDAL, load_op("interpolated_kl").contestant("torch"))[
        "torch"
    ]
    assert ours["status"] == MEASURED and 0 < ours["p20_ms"] <= ours["median_ms"] <= ours["p80_ms"]
    gigabytes = 6 * 700 * 20 / ours["median_ms"] / 1e6
    assert ours["gb_s"] == pytest.approx(gigabytes)
    assert ours["copy_percent"] == pytest.approx(100 * gigabytes / ours["copy_gb_s"])
    assert ours["gradient_mib"] == 6 * 700 * 4 / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not can_reset_peak(), reason=f"{CLEAR_REFS} cannot be written")
def test_peaks_are_measured_in_a_process_for_all_contestants():
    case = case_of("interpolated_kl", "tidal", rows=64, vocab=65_536)
    one = 64 * 65_536 * 4
    eager, torch_backend = peaks_in_process([(case, "eager"), (case, "torch")], threads=1)
    assert eager["step"] > 3 * one and one <= torch_backend["step"] < 1.5 * one
    assert 1.9 * one < eager["all"] - eager["step"] < 2.1 * one


FAULTS = {
    "a dropped last column": drop_last_column,
    "a missing T squared": lambda case, loss: lambda tensors: loss(tensors) / 4,
    "a swapped sign": lambda case, loss: lambda tensors: -loss(tensors),
    "a not-a-number": lambda case, loss: lambda tensors: loss(tensors) * math.nan,
    "a last row that is left out": lambda case, loss: (
        lambda tensors: loss({k: v[:-1] for k, v in tensors.items()}) * (1 - 1 / case.rows)
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_gate_fails_a_wrong_operation(fault, dtype):
    case = dataclasses.replace(TIDAL, dtype=dtype)
    assert judge(with_fault(FAULTS[fault]), case) is not None


def test_a_red_contestant_gets_no_time(measured):
    op = load_op("interpolated_kl")
    wrong = dataclasses.replace(with_fault(FAULTS["a missing T squared"]), name="wrong")
    rows = measured(op, dataclasses.replace(TIDAL, mode=FORWARD), op.contestant("eager"), wrong)
    row = rows["wrong"]
    assert row["status"] == RED and "median_ms" not in row and "loss error" in row["reason"]
    assert rows["eager"]["status"] == MEASURED and rows["eager"]["rounds"] == 3


def test_an_error_of_our_backends_propagates(measured):
    broken = Contestant("torch", lambda case: lambda tensors: tensors["missing"], ours=True)
    with pytest.raises(KeyError):
        measured(load_op("interpolated_kl"), TIDAL, broken)


def test_rounds_alternate_and_rotate():
    order = []
    steps = {
        name: Step(lambda _, n=name: order.append(n), lambda n=name: order.append(f"prepare {n}"))
        for name in "abc"
    }
    times = alternate(steps, CPU, Rounds(0.0, 3, 9, 1))
    ran = "".join(step for step in order if len(step) == 1)
    assert ran == "abc" + "abc" + "bca" + "cab"
    assert [(len(t.seconds), len(t.processor)) for t in times.values()] == [(3, 3)] * 3


def test_quantiles():
    assert quantiles([float(x) for x in range(10, -1, -1)]) == {"median": 5.0, "p20": 2.0, "p80": 8.0}
    assert quantiles([2.0]) == {"median": 2.0, "p20": 2.0, "p80": 2.0}


def test_a_used_budget_starts_no_case(tmp_path, monkeypatch):
    monkeypatch.setattr(_session, "measure_case", pytest.fail)
    rows = Session(CPU, Store(tmp_path, {}), ROUNDS, budget_seconds=0.0).measure(load_op(TIDAL.op), TIDAL)
    assert {(row["status"], row["reason"]) for row in rows} == {(NOT_REACHED, "the time budget was used")}
    kept = json.loads((tmp_path / "interpolated_kl.json").read_text())["rows"]
    assert {r["contestant"] for r in kept} >= {"torch", "native", "eager", "triton", "tide"}


# As on a machine with pytest alone, where --strict-config rejects `timeout`.
BARE = [f"-pno:{plugin}" for plugin in ("timeout", "xdist", "hypothesispytest", "jaxtyping", "anyio")]


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.mark.slow
def test_make_gpu_on_a_cpu(root: Path, tmp_path: Path):
    """Correctness tests, a benchmark, the other tests and the report, on small shapes."""
    (tmp_path / "test_ops.py").write_text(
        "def test_ops_equal_the_definition_in_fp64(): pass\n\n\ndef test_others():\n    assert 1 == 2\n"
    )
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--tests", str(tmp_path), *BARE]
    options = ["--shape", "4", "512", "--results", str(tmp_path / "results"), "--seconds-per-case", "0.1"]
    # Without a compiler on the path torch.compile takes no minute.
    environment = {**os.environ, "PATH": str(tmp_path)}
    chosen = ["-k", "headline and token_logprob-forward-N4-V512-float32"]
    done = subprocess.run(
        [*command, *options, *chosen], cwd=root, env=environment, capture_output=True, text=True, timeout=240
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 1 and "tests: failed; benchmarks: exit status 0" in printed, printed
    (folder,) = (tmp_path / "results").iterdir()
    tests = json.loads((folder / "tests.json").read_text())["tests"]
    assert [(t["test"].split("::")[1], t["status"]) for t in tests] == [
        ("test_ops_equal_the_definition_in_fp64", 0),
        ("test_others", 1),
    ]
    assert any("assert 1 == 2" in line for line in tests[1]["failed"])
    content = json.loads((folder / "token_logprob.json").read_text())
    rows = {row["contestant"]: row for row in content["rows"]}
    assert rows["torch"]["status"] == rows["eager"]["status"] == MEASURED
    assert "GPU" in rows["triton"]["reason"] and "C++ compiler" in rows["compile"]["reason"]
    assert {"device", "torch", "commit"} <= content["environment"].keys()
    assert "| **torch** |" in (folder / "README.md").read_text()


def test_a_gpu_test_that_exceeds_the_time_is_stopped(tmp_path: Path):
    (tmp_path / "test_one.py").write_text("def test_one():\n    __import__('time').sleep(60)\n")
    outcomes = gpu.Outcomes(tmp_path, CPU)
    gpu.run_tests(gpu.functions_in([str(tmp_path / "test_one.py")]), 0.0, outcomes)
    (kept,) = json.loads((tmp_path / "tests.json").read_text())["tests"]
    assert (kept["status"], kept["summary"]) == (
        gpu.TIMED_OUT,
        "the time budget was used",
    ) and not outcomes.passed


def test_every_op_has_a_correctness_test_that_runs_first():
    first = [f for f in gpu.functions_in(["tests/gpu"]) if gpu.CORRECTNESS in f]
    assert len(first) == 6 and len(gpu.functions_in(["tests/gpu"])) > 30


def test_make_gpu_installs_nothing(root: Path):
    command = ["make", "-n", "gpu", "PYTHON=a-python", "VENV=no-venv"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "a-python -m benchmarks.gpu" in done.stdout
    assert not {"pip", "venv", "no-venv"} & set(done.stdout.replace("/", " ").split())


@pytest.mark.slow
def test_benchmarks_import_without_optional_packages(root: Path):
    absent = ("jaxtyping", "matplotlib", "hypothesis", "liger_kernel", "trl", "yaml", "rich", "tide")
    absent += ("transformers",)
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "import benchmarks.gpu, benchmarks.report, benchmarks._session, benchmarks.ops, benchmarks.bench_all"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

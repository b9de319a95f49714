"""Benchmarks: byte formulas, the gate, rounds, the time budget, and a whole run on small shapes."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import _session, gpu
from benchmarks._cases import BOTH, FORWARD, Case
from benchmarks._gate import errors_of, truth_of, verdict
from benchmarks._op import Contestant, load_op
from benchmarks._results import MEASURED, NOT_REACHED, RED, Store
from benchmarks._session import Measurements, measure_case
from benchmarks._timing import Copy, Rounds, Timed, alternate, quantiles

CPU = torch.device("cpu")
ROUNDS = Rounds(0.0, 3, 3, 1)


HIDDEN_OPS = ("linear_interpolated_kl", "linear_reverse_kl", "linear_token_logprob")


def case_of(op, variant=None, mode=BOTH, dtype="float32", rows=6, vocab=700, width=None):
    if op == "chunk_likelihood":
        vocab = width = 0
    if op in HIDDEN_OPS:
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
    (products,) = (c for c in op.contestants if c.products)
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
    for kind in ("near", "ordinary") if near else ("ordinary",):
        tensors = op.inputs(case, CPU, kind == "near")
        errors[kind] = errors_of(contestant.build(case), case, tensors, truth_of(op, case, tensors))
    return verdict(contestant, case.dtype, errors, op.bounds)


GATED = [
    ("interpolated_kl", "tidal"),
    ("interpolated_kl", "forward_kl"),
    ("reverse_kl", "reverse_kl"),
    ("token_logprob", "token_logprob"),
    ("linear_interpolated_kl", "linear_tidal"),
    ("linear_interpolated_kl", "linear_forward_kl"),
    ("linear_reverse_kl", None),
    ("linear_token_logprob", None),
]
# Token log-probabilities are fp32. Mode forward compares the loss only, in the same code for every op.
GATED_CASES = [
    *((*op, BOTH, dtype) for op in GATED for dtype in ("float32", "bfloat16")),
    ("chunk_likelihood", "forward", BOTH, "float32"),
    ("chunk_likelihood", "reverse", BOTH, "float32"),
    ("interpolated_kl", "tidal", FORWARD, "float32"),
    ("linear_token_logprob", None, FORWARD, "float32"),
]


@pytest.mark.parametrize(("op", "variant", "mode", "dtype"), GATED_CASES)
@pytest.mark.parametrize("name", ["eager", "reference", "torch"])
def test_the_gate_passes_correct_contestants(op, variant, mode, dtype, name):
    case = case_of(op, variant, mode, dtype, rows=8, vocab=700, width=720)
    assert judge(load_op(op).contestant(name), case, near=True) is None


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
    ("linear_token_logprob", None, "torch_linear_cross_entropy_1024"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("op", "variant", "name"), PEERS)
def test_peers_compute_the_same_function(op, variant, name):
    # In the interpreter, so that a mistake shows before a GPU run.
    if name.startswith("liger"):
        pytest.importorskip("liger_kernel")
    contestant, case = load_op(op).contestant(name), case_of(op, variant, rows=8)
    if "torch" in name and contestant.absent(case, CPU):
        pytest.skip(contestant.absent(case, CPU))
    assert judge(contestant, case) is None


def test_a_peer_that_computes_something_else_is_absent_with_the_reason():
    op = load_op("linear_interpolated_kl")
    case = case_of("linear_interpolated_kl", "linear_tidal")
    (reason,) = {c.absent(case, CPU) for c in op.contestants if c.name.startswith("liger")}
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


def test_a_contestant_that_cannot_be_built_is_absent():
    op = load_op("linear_token_logprob")

    def build(case):
        raise ImportError("no such thing")

    entered = (dataclasses.replace(op.contestant("eager"), build=build),)
    results = measure_case(
        dataclasses.replace(op, contestants=entered), case_of(op.name), CPU, Copy(CPU), ROUNDS
    )
    row, _ = results["eager"]
    assert (row["status"], row["reason"]) == ("absent", "ImportError: no such thing")


def test_times_are_related_to_those_of_the_products():
    op, case = load_op("linear_token_logprob"), case_of("linear_token_logprob", mode=FORWARD)
    entered = (op.contestant("gemms"), op.contestant("torch"))
    results = measure_case(dataclasses.replace(op, contestants=entered), case, CPU, Copy(CPU), ROUNDS)
    products, ours = results["gemms"][0], results["torch"][0]
    assert products["gemm_percent"] == 100 and products["loss_error"] is None and not products["ours"]
    assert ours["gemm_ms"] == products["median_ms"]
    assert ours["gemm_percent"] == pytest.approx(100 * products["median_ms"] / ours["median_ms"])
    assert ours["tflop_s"] == pytest.approx(2 * 6 * 700 * 16 / ours["median_ms"] * 1e-9)


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


def test_a_red_contestant_gets_no_time():
    op = load_op("interpolated_kl")
    wrong = dataclasses.replace(with_fault(FAULTS["a missing T squared"]), name="wrong")
    entered = (op.contestant("eager"), wrong)
    forward = dataclasses.replace(TIDAL, mode=FORWARD)
    results = measure_case(dataclasses.replace(op, contestants=entered), forward, CPU, Copy(CPU), ROUNDS)
    row, seconds = results["wrong"]
    assert (row["status"], seconds) == (RED, []) and "median_ms" not in row and "loss error" in row["reason"]
    assert results["eager"][0]["status"] == MEASURED and len(results["eager"][1]) == 3


def test_an_error_of_our_backends_propagates():
    op = load_op("interpolated_kl")
    broken = Contestant("torch", lambda case: lambda tensors: tensors["missing"], strict=True)
    ours = dataclasses.replace(op, contestants=(broken,))
    with pytest.raises(KeyError):
        measure_case(ours, TIDAL, CPU, Copy(CPU), ROUNDS)


def test_rounds_alternate_and_rotate():
    order = []
    steps = {
        name: Timed(lambda n=name: order.append(f"prepare {n}"), lambda _, n=name: order.append(n))
        for name in "abc"
    }
    seconds = alternate(steps, CPU, Rounds(0.0, 3, 9, 1))
    ran = "".join(step for step in order if len(step) == 1)
    assert ran == "abc" + "abc" + "bca" + "cab"
    assert [len(times) for times in seconds.values()] == [3, 3, 3]


def test_quantiles():
    assert quantiles([float(x) for x in range(10, -1, -1)]) == {"median": 5.0, "p20": 2.0, "p80": 8.0}
    assert quantiles([2.0]) == {"median": 2.0, "p20": 2.0, "p80": 2.0}


def test_a_used_budget_starts_no_case(tmp_path, monkeypatch):
    monkeypatch.setattr(_session, "measure_case", pytest.fail)
    run = Measurements(CPU, Store(tmp_path, {}), ROUNDS, budget_seconds=0.0)
    row, seconds = run.of(load_op("interpolated_kl"), TIDAL, "torch")
    assert (row["status"], row["reason"], seconds) == (NOT_REACHED, "the time budget was used", [])
    kept = json.loads((tmp_path / "interpolated_kl.json").read_text())["rows"]
    assert {r["contestant"] for r in kept} >= {"torch", "eager", "triton"}


# As on a machine with only pytest and pytest-benchmark, where --strict-config rejects `timeout`.
BARE = [f"-pno:{plugin}" for plugin in ("timeout", "xdist", "hypothesispytest", "jaxtyping", "anyio")]


@pytest.fixture(scope="module")
def root() -> Path:
    return Path(__file__).parents[2]


@pytest.mark.slow
def test_a_whole_run_on_small_shapes(root: Path, tmp_path: Path):
    command = [sys.executable, "-m", "pytest", "-c", "benchmarks/pytest.ini", "benchmarks", *BARE]
    # One op: torch.compile of every case would take minutes.
    options = ["--shape", "4", "512", "--device", "cpu", "--results", str(tmp_path)]
    chosen = ["-k", "token_logprob and forward-N4 and float32", "--seconds-per-case", "0.1"]
    done = subprocess.run(
        [*command, *options, *chosen], cwd=root, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.iterdir()
    content = json.loads((folder / "token_logprob.json").read_text())
    rows = {row["contestant"]: row for row in content["rows"]}
    assert {"eager", "compile", "triton", "torch", "reference", "liger_cross_entropy"} <= rows.keys()
    assert rows["triton"]["status"] == "absent" and "GPU" in rows["triton"]["reason"]
    ours = rows["torch"]
    assert ours["status"] == MEASURED and 0 < ours["p20_ms"] <= ours["median_ms"] <= ours["p80_ms"]
    gigabytes = 4 * 512 * 4 / (ours["median_ms"] * 1e-3) / 1e9
    assert ours["gb_s"] == pytest.approx(gigabytes)
    assert ours["copy_percent"] == pytest.approx(100 * gigabytes / ours["copy_gb_s"])
    assert {"device", "torch", "commit"} <= content["environment"].keys()


def test_make_gpu_installs_nothing(root: Path):
    command = ["make", "-n", "gpu", "PYTHON=a-python", "VENV=no-venv"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "a-python -m benchmarks.gpu" in done.stdout
    assert not {"pip", "venv", "no-venv"} & set(done.stdout.replace("/", " ").split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "seconds", "status"),
    [("assert False", 100.0, 1), ("__import__('time').sleep(60)", 1.0, 124)],
)
def test_the_outcome_of_the_gpu_tests_is_kept(tmp_path: Path, body, seconds, status):
    (tmp_path / "test_one.py").write_text(f"def test_one():\n    {body}\n")
    assert gpu.run_tests([str(tmp_path / "test_one.py")], seconds, tmp_path / "out", CPU) == status
    kept = json.loads((tmp_path / "out" / "tests.json").read_text())
    assert kept["status"] == status and bool(kept["failed"]) == (status == 1)


@pytest.mark.slow
def test_benchmarks_import_without_optional_packages(root: Path):
    absent = ("jaxtyping", "matplotlib", "hypothesis", "liger_kernel", "yaml", "rich", "tide", "transformers")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "import benchmarks.gpu, benchmarks.report, benchmarks._session, benchmarks._peak\n"
        "from benchmarks._op import load_op\n"
        "over_vocabularies = ('interpolated_kl', 'reverse_kl', 'token_logprob')\n"
        "[load_op(kind + name) for kind in ('', 'linear_') for name in over_vocabularies]\n"
        "load_op('chunk_likelihood')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr

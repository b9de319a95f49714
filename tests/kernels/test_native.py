"""The C library: how it is built and found, what its arithmetic errs by, and that threads do not change it.

Values, gradients and rules are tested with the other backends'. Mutants that these tests kill: a library kept
for other sources; a build failure that is silent by name; rows shared by two threads.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.kernels.cases import DIVERGENCES, worst_row
from tests.kernels.cases.divergence import call, gradient, make, truth
from tide_kernels import interpolated_kl, token_logprob, token_scores
from tide_kernels._shared import native, native_tokens
from tide_kernels.chunk_likelihood import native as native_chunks
from tide_kernels.divergence import native as native_divergence
from tide_kernels.divergence.backend import DivergenceRows

SOURCES = native._SOURCES
PROGRAM = """
import logging, torch
logging.basicConfig(level="DEBUG")
from tide_kernels import interpolated_kl
s, z = torch.randn(2, 3, 50)
print(interpolated_kl(s, z, 0.5).tolist() == interpolated_kl(s, z, 0.5, backend="torch").tolist())
interpolated_kl(s, z, 0.5, backend="native")
"""


def program(cache, **environment):
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    return subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)


def test_the_library_is_built_once_for_its_sources_and_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_SOURCES", shutil.copytree(SOURCES, tmp_path / "csrc"))
    first = native._built()
    written = first.stat().st_mtime_ns
    assert native._built() == first and first.stat().st_mtime_ns == written
    with (tmp_path / "csrc/row_math.h").open("a") as header:
        header.write("/* another */\n")
    assert native._built() != first
    monkeypatch.setenv("CC", "cc -DOTHER")
    other = native._built()
    assert len(list((tmp_path / "tide").iterdir())) == 3, "nothing else is left"
    other.write_bytes(b"")
    monkeypatch.setattr(native, "_library", None)
    assert not native.native_failure() and other.stat().st_size > 1000, "a damaged one is built again"


@pytest.mark.parametrize(
    ("compiler", "said"),
    [("no-such-compiler", "No such file"), (f"{sys.executable} -c raise(SystemExit(3))", "exit status 3")],
)
def test_without_a_compiler_torch_takes_its_place(tmp_path, compiler, said):
    done = program(tmp_path, CC=compiler)
    assert done.stdout == "True\n"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("DEBUG:tide_kernels")]
    assert "backend 'native' is not available, backend 'torch' takes its place: " in line and said in line
    assert "ValueError: interpolated_kl: backend 'native' could not be built (" in done.stderr


def test_processes_that_build_at_once_all_find_a_whole_library(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    code = "from tide_kernels._shared import native; raise SystemExit(native.native_failure() or 0)"
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert len(list((tmp_path / "tide").iterdir())) == 1


def test_structures_have_the_sizes_of_the_library():
    library = native._loaded()
    for structure, size in (
        (native_divergence._Call, library.tide_size_of_divergence),
        (native_tokens.TokensCall, library.tide_size_of_tokens),
        (native_chunks._Call, library.tide_size_of_chunks),
    ):
        assert ctypes.sizeof(structure) == size()


def test_only_a_cpu_takes_it():
    meta = torch.empty(2, 3, device="meta")
    with pytest.raises(ValueError, match=r"backend 'native' runs on a CPU, the inputs are on meta"):
        interpolated_kl(meta, meta, 0.5, backend="native")


@pytest.fixture(scope="module")
def exponentials(tmp_path_factory):
    """exp and expm1 of csrc/row_math.h over fp32 arrays."""
    folder = tmp_path_factory.mktemp("exponentials")
    (folder / "e.c").write_text(
        '#define REAL float\n#define FN(name) name##_f32\n#define SERIES_REACH 0.5f\n#include "row_math.h"\n'
        "void exponentials(const float *x, float *e, float *m, int n) {\n"
        "for (int i = 0; i < n; i++) e[i] = tide_exp_f32(x[i]), m[i] = tide_expm1_f32(x[i]);\n}\n"
    )
    command = ["cc", *native.FLAGS, f"-I{SOURCES}", str(folder / "e.c"), "-o", str(folder / "e.so")]
    subprocess.run([*command, "-fPIC", "-shared", "-lm"], check=True)
    library = ctypes.CDLL(str(folder / "e.so"))

    def run(x):
        x = np.ascontiguousarray(x, np.float32)
        made = np.empty_like(x), np.empty_like(x)
        library.exponentials(*(ctypes.c_void_p(of.ctypes.data) for of in (x, *made)), x.size)
        return made

    return run


def test_exponentials_err_by_two_ulps_at_most(exponentials):
    small = np.geomspace(1e-30, 1, 100_001)
    x = np.concatenate([np.linspace(-87.3, 88, 2_000_001), small, -small]).astype(np.float32)
    exact = x.astype(np.float64)
    for actual, expected in zip(exponentials(x), (np.exp(exact), np.expm1(exact)), strict=True):
        assert (np.abs(actual - expected) / np.abs(expected)).max() < 2.5e-7


def test_exponentials_at_the_ends_of_their_range(exponentials):
    e, m = exponentials([-np.inf, np.finfo(np.float32).min, -200, -87.4, 0.0, np.nan])
    assert e[:5].tolist() == [0, 0, 0, 0, 1] and m[:5].tolist() == [-1, -1, -1, -1, 0]
    assert np.isnan([e[5], m[5]]).all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_rows_of_many_tiles_equal_the_definition(divergence):
    """The maximum in the last tile, a close teacher, labels in every tile and one near probability 1."""
    inputs, upstream = make(8, 4500)
    with torch.no_grad():
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        student += torch.linspace(0, 20, 4500)
        teacher[:6] = student[:6] + torch.tensor([[1e-3], [1e-2], [1e-1], [1.0], [1.0], [1.0]]) * teacher[:6]
        inputs["labels"][:] = torch.tensor([0, 1023, 1024, 2047, 3000, 4499, 4000, 4499])
        student[7, 4499] += 20
    inputs["lambda_t"] = torch.linspace(0.1, 1, 8)
    *exact, d_exact = truth(divergence, inputs, upstream)
    actual = call(divergence, inputs, backend="native")
    for one, other in zip(actual, exact, strict=True):
        assert ((one - other).abs() / other).max() < 3e-6
    assert worst_row(gradient(actual, inputs["student_logits"], upstream), d_exact) < 3e-6


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_common_offset_costs_no_digits(divergence, temperature):
    inputs, upstream = make(8, 4500)
    with torch.no_grad():
        inputs["student_logits"] += 1024
        inputs["teacher_logits"] += 1024
    inputs["lambda_t"] = torch.full((8,), 0.01)
    kl, _, d_exact = truth(divergence, inputs, upstream, temperature=temperature)
    actual = call(divergence, inputs, backend="native", temperature=temperature)
    assert ((actual[0] - kl).abs() / kl).max() < 3e-6
    assert worst_row(gradient(actual, inputs["student_logits"], upstream), d_exact) < 3e-6


@pytest.mark.parametrize("gap", [60.0, 82.0, 86.0, 88.5, 95.0])
def test_a_teacher_without_the_students_token(gap):
    """Nearly all of p lies where the teacher is -inf: what is left of it keeps its digits, and no NaN."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(2, 2000, generator=generator)
    student[:, 7] = student.amax(1) + gap
    teacher = student + torch.randn(2, 2000, generator=generator)
    teacher[:, 7] = -torch.inf
    inputs = {"student_logits": student.requires_grad_(), "teacher_logits": teacher}
    inputs |= {"lambda_t": torch.tensor([0.5, 1.0]), "labels": torch.tensor([7, 3])}
    kl, _, d_exact = truth("interpolated_kl", inputs, (torch.ones(2), torch.zeros(2)), temperature=1.0)
    actual = call("interpolated_kl", inputs, backend="native", temperature=1.0)
    assert ((actual[0] - kl).abs() / kl).max() < 3e-6
    d_student = gradient(actual, inputs["student_logits"], (torch.ones(2), torch.zeros(2)))
    assert worst_row(d_student, d_exact) < 3e-6


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.7], ids=str)
@pytest.mark.parametrize("logit", [-torch.inf, -1e4, -1e9], ids=str)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_a_student_without_one_of_the_teachers_tokens_is_summed(divergence, logit, share):
    """As a student that never proposes its mask token: sums of one pass, not the definition.

    share: of the teacher's probability at that token.
    """
    inputs, upstream = make(4, 4500)
    inputs["lambda_t"] = torch.tensor([0.0, 0.01, 0.5, 0.9])
    with torch.no_grad():
        student, teacher = inputs["student_logits"], inputs["teacher_logits"]
        student[:, 2000] = logit
        total = teacher.div(1.7).exp().sum(1) - teacher[:, 2000].div(1.7).exp()
        teacher[:, 2000] = 1.7 * (total * share / (1 - share)).log() if share else -200.0
    *exact, d_exact = truth(divergence, inputs, upstream, temperature=1.7)
    actual = call(divergence, inputs, backend="native", temperature=1.7)
    for one, other in zip(actual, exact, strict=True):
        assert ((one - other).abs() <= 3e-6 * other).all()
    assert worst_row(gradient(actual, inputs["student_logits"], upstream), d_exact) < 3e-6
    run = native_divergence.NativeDivergence(divergence)
    rows = DivergenceRows(student.detach(), teacher, inputs["lambda_t"], None, None, 1.7, 4500)
    assert (run.forward(rows)[2][:, 4] < 2).all(), "computed by the definition"


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_threads_change_nothing(divergence):
    inputs, upstream = make(40, 9000)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            kl, ce = call(divergence, inputs, backend="native")
            loss = (upstream[0] * kl).sum() + (upstream[1] * ce).sum()
            results.append((kl, ce, *torch.autograd.grad(loss, inputs["student_logits"])))
    finally:
        torch.set_num_threads(threads)
    for one in results[1:]:
        assert all(map(torch.equal, one, results[0]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_half_number_is_read_and_written_exactly(dtype):
    """Values of both signs, subnormals among them: through the teacher's logits, and as a gradient."""
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite() & (every.float().abs() < 3e4)]
    logits = torch.stack([every, torch.zeros_like(every)], 1)
    expected = -torch.logaddexp(torch.zeros(1, dtype=torch.float64), -every.double())
    actual = token_logprob(logits, torch.zeros(len(every), dtype=torch.int64), backend="native")
    torch.testing.assert_close(actual.double(), expected, rtol=3e-7, atol=1e-37)

    # The gradient of row i is onehot - p = 1/2 at the label: upstream 2x writes x.
    zeros = torch.zeros(len(every), 2, dtype=dtype, requires_grad=True)
    log_p = token_logprob(zeros, torch.zeros(len(every), dtype=torch.int64), backend="native")
    (gradient,) = torch.autograd.grad((log_p * 2 * every.float()).sum(), zeros)
    assert torch.equal(gradient[:, 0], every) and torch.equal(gradient[:, 1], -every)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_gradient_rounds_to_the_nearest_half_number(dtype):
    upstream = torch.randn(4096) * torch.logspace(-9, 4, 4096)
    zeros = torch.zeros(4096, 2, dtype=dtype, requires_grad=True)
    log_p = token_logprob(zeros, torch.zeros(4096, dtype=torch.int64), backend="native")
    (gradient,) = torch.autograd.grad((log_p * 2 * upstream).sum(), zeros)
    assert torch.equal(gradient[:, 0], upstream.to(dtype))


def test_scores_of_ties_infinities_and_nan_in_any_tile():
    rows = torch.full((6, 3000), -1.0)
    rows[0, [7, 2500]] = 3.0  # a tie: the lowest id
    rows[1, 2999] = 3.0
    rows[2] = -torch.inf
    rows[3, 1500] = torch.nan
    rows[4, :2999] = -torch.inf
    rows[5, [2047, 2048]] = torch.tensor([2.0, 5.0])
    actual, expected = (token_scores(rows, backend=backend) for backend in ("native", "reference"))
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, rtol=1e-5, atol=1e-6)


def test_the_formulas_compile_for_cuda_without_spills(tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    (tmp_path / "e.cu").write_text(
        '#define REAL float\n#define FN(name) name##_f32\n#define SERIES_REACH 0.5f\n#include "row_math.h"\n'
        "__global__ void row(const float *s, const float *z, float *g, float max, float mean, float scale)\n"
        "{ int i = threadIdx.x; float w = tide_tilt_f32(s[i], z[i], mean, scale), e = tide_expm1_f32(w);\n"
        "g[i] = tide_mass_f32(s[i], max, 0.5f) * tide_excess_f32(w, e) * tide_cap_slope_f32(s[i], 0.1f);\n}\n"
    )
    command = [nvcc, "-arch=sm_90", "-Xptxas=-v", f"-I{SOURCES}", "-cubin", "-o", "e.cubin", "e.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "0 bytes spill stores, 0 bytes spill loads" in done.stderr

"""token_logprob: the log-probability of one token per row, held to the definition in fp64.

Mutants that this file kills: the last vocabulary column left out of the sum (it is the likeliest), a gradient
of the other sign, statistics of one row block used for another in backward, log(1 + rest) in place of
log1p(rest).
"""

from __future__ import annotations

import math

import pytest
import torch

from tests.kernels.cases import BACKENDS, EPS32, relative
from tide_kernels import token_logprob


def make(rows=13, vocab=1000, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    # The last column weighs in every row and is the token of some: code that drops it must fail.
    logits[:, -1] += 8
    ids = torch.randint(vocab, (rows,), generator=generator)
    ids[::2] = vocab - 1
    upstream = torch.randn(rows, generator=generator)
    return logits.to(dtype).requires_grad_(), ids, upstream


def gradient(log_p, logits, upstream, **options):
    (d_logits,) = torch.autograd.grad(log_p, [logits], upstream.to(log_p.dtype), **options)
    return d_logits


def truth(logits, ids, upstream, **options):
    wide = logits.detach().double().requires_grad_()
    log_p = token_logprob(wide, ids, backend="reference", **options)
    return log_p.detach(), gradient(log_p, wide, upstream)


def worst_in_fp32_rounding(log_p, expected):
    """Largest error of a row, in fp32 roundings of its value and of 1."""
    return float(((log_p.detach().double() - expected).abs() / (1 + expected.abs())).max() / EPS32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("vocab", "rows"), [(7, 13), (1000, 13), (5003, 3)])
def test_fp32_equals_the_definition_in_fp64(vocab, rows, backend, few_rows_at_a_time):
    logits, ids, upstream = make(rows, vocab)
    expected, d_expected = truth(logits, ids, upstream)
    log_p = token_logprob(logits, ids, backend=backend)
    assert log_p.dtype == torch.float32
    assert worst_in_fp32_rounding(log_p, expected) < 4
    d_logits = gradient(log_p, logits, upstream)
    assert d_logits.dtype == torch.float32
    # The definition subtracts p_y from 1: an fp32 rounding of 1, whatever the size of the gradient.
    floor = EPS32 * upstream.abs().max() if backend == "reference" else 0.0
    assert float((d_logits - d_expected).abs().max()) < 8 * EPS32 * d_expected.abs().max() + floor


def test_the_definition_is_the_formula():
    logits, ids, upstream = make(5, 7)
    rows = logits.detach().double().tolist()
    expected, d_expected = truth(logits, ids, upstream)
    for row, y, value, d_row, w in zip(
        rows, ids.tolist(), expected.tolist(), d_expected.tolist(), upstream.tolist(), strict=True
    ):
        total = math.fsum(map(math.exp, row))
        assert value == pytest.approx(row[y] - math.log(total), rel=1e-12, abs=1e-14)
        d_by_hand = [w * ((k == y) - math.exp(x) / total) for k, x in enumerate(row)]
        assert d_row == pytest.approx(d_by_hand, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vocabulary_of_one_is_certain(backend):
    logits, ids, upstream = make(vocab=1)
    log_p = token_logprob(logits, ids, backend=backend)
    assert log_p.tolist() == [0.0] * 13
    assert gradient(log_p, logits, upstream).abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_types_sum_in_fp32_and_round_the_gradient_once(dtype, few_rows_at_a_time):
    logits, ids, upstream = make(31, 1000, dtype)
    expected, d_expected = truth(logits, ids, upstream)
    log_p = token_logprob(logits, ids)
    assert log_p.dtype == torch.float32
    assert worst_in_fp32_rounding(log_p, expected) < 4
    d_logits = gradient(log_p, logits, upstream)
    assert d_logits.dtype == dtype
    error = (d_logits.double() - d_expected).abs()
    subnormal = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    bound = (0.5 * torch.finfo(dtype).eps + 32 * EPS32) * d_expected.abs() + 0.5 * subnormal + 1e-12
    assert bool((error <= bound).all()), float((error / bound).max())


def test_fp64_stays_fp64():
    logits, ids, upstream = make(dtype=torch.float64)
    expected, d_expected = truth(logits, ids, upstream)
    log_p = token_logprob(logits, ids)
    assert log_p.dtype == torch.float64
    assert relative(log_p, expected) < 1e-14
    assert relative(gradient(log_p, logits, upstream), d_expected) < 1e-14


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16])
def test_ids_of_any_integer_type(dtype):
    logits, ids, _ = make()
    assert torch.equal(token_logprob(logits, ids.to(dtype)), token_logprob(logits, ids))


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_rows_are_not_read(backend, few_rows_at_a_time):
    logits, ids, upstream = make()
    mask = torch.arange(13) % 3 != 1
    expected, d_expected = truth(logits[mask], ids[mask], upstream[mask])
    with torch.no_grad():
        logits[~mask] = torch.nan
    ids[~mask] = -100
    upstream[~mask] = torch.nan
    log_p = token_logprob(logits, ids, mask=mask, backend=backend)
    assert log_p[~mask].tolist() == [0.0] * 4
    assert worst_in_fp32_rounding(log_p[mask], expected) < 4
    d_logits = gradient(log_p, logits, upstream)
    assert not d_logits[~mask].any()
    assert relative(d_logits[mask], d_expected) < 8 * EPS32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [0, 13])
def test_an_empty_mask_gives_zeros_with_a_graph(rows, backend):
    logits, ids, upstream = make(rows, 7)
    with torch.no_grad():
        logits.fill_(torch.nan)
    mask = torch.zeros(rows, dtype=torch.bool)
    log_p = token_logprob(logits, ids, mask=mask, backend=backend)
    assert log_p.shape == (rows,) and not log_p.any()
    d_logits = gradient(log_p, logits, upstream)
    assert d_logits.shape == (rows, 7) and not d_logits.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_without_a_mask(backend):
    logits, ids, upstream = make(0, 7)
    log_p = token_logprob(logits, ids, backend=backend)
    assert log_p.shape == (0,) and log_p.dtype == torch.float32
    assert gradient(log_p, logits, upstream).shape == (0, 7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_entries_at_minus_infinity_are_left_out(backend):
    logits, _, upstream = make(4, 60)
    # The kept columns are scattered; the last row keeps one column alone, and is certain of it.
    kept = torch.arange(0, 60, 3)
    with torch.no_grad():
        logits[:, torch.arange(60) % 3 != 0] = -torch.inf
        logits[3, :57] = -torch.inf
    inside = torch.tensor([0, 5, 19, 19])
    expected, d_expected = truth(logits.detach()[:, kept], inside, upstream)
    log_p = token_logprob(logits, kept[inside], backend=backend)
    assert worst_in_fp32_rounding(log_p, expected) < 4
    assert log_p[3] == 0
    d_logits = gradient(log_p, logits, upstream)
    assert relative(d_logits[:, kept], d_expected) < 8 * EPS32
    assert not d_logits[:, torch.arange(60) % 3 != 0].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_token_at_minus_infinity_is_impossible_and_an_empty_row_undefined(backend):
    logits = torch.tensor([[-torch.inf, 1.0, 2.0], [-torch.inf] * 3, [3.0, 1.0, 2.0]])
    log_p = token_logprob(logits, torch.tensor([0, 0, 0]), backend=backend)
    assert log_p[0] == -torch.inf
    assert bool(log_p[1].isnan())
    assert float(log_p[2]) == pytest.approx(-math.log(1 + math.exp(-2) + math.exp(-1)), rel=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vocab_size_normalises_over_a_prefix(backend):
    logits, ids, upstream = make(vocab=60)
    ids %= 40
    expected, d_expected = truth(logits[:, :40], ids, upstream)
    with torch.no_grad():
        logits[:, 40:] = torch.nan  # never read
    log_p = token_logprob(logits, ids, vocab_size=40, backend=backend)
    assert worst_in_fp32_rounding(log_p, expected) < 4
    d_logits = gradient(log_p, logits, upstream)
    assert relative(d_logits[:, :40], d_expected) < 8 * EPS32
    assert not d_logits[:, 40:].any()


def test_far_from_zero_nothing_overflows():
    logits, ids, upstream = make(vocab=100)
    shift = torch.linspace(-1e4, 1e4, 13)[:, None].round() * 8
    with torch.no_grad():
        logits.copy_((logits * 16).round() / 16)  # so that the shift is exact
    plain = token_logprob(logits, ids)
    shifted = (logits.detach() + shift).requires_grad_()
    far = token_logprob(shifted, ids)
    assert torch.equal(plain, far)
    assert torch.equal(gradient(plain, logits, upstream), gradient(far, shifted, upstream))


def test_a_certain_token_keeps_its_digits():
    """1 - p = 1e-9 is below fp32's resolution at 1, log p is not: chunk likelihoods need it for 1 - P."""
    logits = torch.tensor([[0.0, 20.7232658, -1.0]], requires_grad=True)
    ids = torch.tensor([1])
    expected, d_expected = truth(logits, ids, torch.ones(1))
    log_p = token_logprob(logits, ids)
    assert -2e-9 < float(log_p.detach()) < -1e-9
    assert relative(log_p, expected) < 16 * EPS32
    d_logits = gradient(log_p, logits, torch.ones(1))
    # The entry of the token is 1 - p: 0 if it were subtracted in fp32.
    assert float((d_logits.double() / d_expected - 1).abs().max()) < 16 * EPS32


@pytest.mark.parametrize("spread", ["columns", "rows", "both"])
def test_inputs_are_read_only_and_need_not_be_contiguous(spread, few_rows_at_a_time):
    logits, ids, upstream = make()
    expected, d_expected = truth(logits, ids, upstream)
    plain = logits.detach()
    if spread == "columns":
        apart = plain.T.contiguous().T
    elif spread == "rows":
        apart = torch.full((13, 1100), torch.nan).narrow(1, 50, 1000).copy_(plain)
    else:
        apart = torch.full((26, 2000), torch.nan)[::2, ::2].copy_(plain)
    assert not apart.is_contiguous()
    apart.requires_grad_()
    wide_ids = torch.stack([ids, ids], 1)[:, 0]
    wide_upstream = torch.stack([upstream, upstream], 1)[:, 0]
    log_p = token_logprob(apart, wide_ids)
    d_logits = gradient(log_p, apart, wide_upstream)
    assert worst_in_fp32_rounding(log_p, expected) < 4
    assert relative(d_logits, d_expected) < 8 * EPS32
    assert torch.equal(apart, plain) and torch.equal(wide_ids, ids) and torch.equal(wide_upstream, upstream)


def test_backward_again_gives_the_same(few_rows_at_a_time):
    logits, ids, upstream = make(dtype=torch.bfloat16)
    log_p = token_logprob(logits, ids)
    first = gradient(log_p, logits, upstream, retain_graph=True)
    second = gradient(log_p, logits, 2 * upstream)
    _, d_expected = truth(logits, ids, upstream)
    assert relative(first, d_expected) < 0.5 * torch.finfo(torch.bfloat16).eps + 32 * EPS32
    assert torch.equal(2 * first, second)


def test_an_expanded_upstream_gradient():
    logits, ids, _ = make(vocab=7)
    (summed,) = torch.autograd.grad(token_logprob(logits, ids).sum(), [logits])
    _, d_expected = truth(logits, ids, torch.ones(13))
    assert relative(summed, d_expected) < 8 * EPS32


def test_double_backward_raises():
    logits, ids, upstream = make(3, 7)
    d_logits = gradient(token_logprob(logits, ids), logits, upstream, create_graph=True)
    penalty = d_logits.square().sum() + logits.square().sum()
    with pytest.raises(RuntimeError, match="double backward is not implemented"):
        torch.autograd.grad(penalty, [logits])


def test_runs_are_bit_identical_and_no_buffer_is_read_before_it_is_written(few_rows_at_a_time):
    logits, ids, upstream = make(dtype=torch.bfloat16)
    mask = torch.arange(13) % 4 != 2
    for options in ({}, {"mask": mask}):
        first = token_logprob(logits, ids, **options)
        d_first = gradient(first, logits, upstream)
        torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
        try:
            second = token_logprob(logits, ids, **options)
            d_second = gradient(second, logits, upstream)
        finally:
            torch.use_deterministic_algorithms(False)
        assert torch.equal(first, second) and torch.equal(d_first, d_second)


def test_reference_passes_gradcheck():
    logits, ids, _ = make(7, 5, torch.float64)
    mask = torch.arange(7) % 3 != 1

    def function(x):
        return token_logprob(x, ids % 4, mask=mask, vocab_size=4, backend="reference")

    assert torch.autograd.gradcheck(function, [logits])


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bounds_would_show_the_last_column_missing(backend):
    logits, ids, upstream = make(vocab=1000)
    ids = ids % 999
    expected, d_expected = truth(logits, ids, upstream)
    cut = token_logprob(logits, ids, vocab_size=999, backend=backend)
    assert worst_in_fp32_rounding(cut, expected) > 1000
    assert relative(gradient(cut, logits, upstream), d_expected) > 1000 * EPS32


IDS = torch.zeros(13, dtype=torch.int64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": torch.zeros(13)}, r"logits.*two-dimensional.*\(13,\)"),
        ({"logits": torch.zeros(13, 0)}, r"logits.*columns.*\(13, 0\)"),
        ({"logits": torch.zeros(13, 9, dtype=torch.int64)}, "logits.*bf16.*int64.*Cast"),
        (
            {"token_ids": IDS[:12]},
            r"token_ids.*13 rows.*\(12,\)",
        ),
        ({"token_ids": IDS.float()}, r"token_ids.*integers.*float32"),
        ({"token_ids": IDS[:, None]}, r"token_ids.*integers.*\(13, 1\)"),
        ({"token_ids": IDS - 100}, r"token_ids.*\[0, 9\).*-100.*mask"),
        ({"token_ids": IDS + 9}, r"token_ids.*\[0, 9\).*9"),
        ({"token_ids": IDS + 5, "vocab_size": 5}, r"token_ids.*\[0, 5\).*5"),
        ({"mask": IDS}, r"mask.*int64.*\.bool\(\)"),
        ({"mask": IDS[:12].bool()}, "mask.*13 rows"),
        ({"vocab_size": 0}, r"vocab_size.*\[1, 9\].*0"),
        ({"vocab_size": 10}, r"vocab_size.*\[1, 9\].*10"),
        ({"backend": "cuda"}, "backend 'cuda'.*triton"),
    ],
)
def test_errors_name_function_argument_and_value(change, message):
    arguments = {"logits": torch.zeros(13, 9), "token_ids": IDS, **change}
    with pytest.raises(ValueError, match=f"token_logprob: .*{message}"):
        token_logprob(**arguments)

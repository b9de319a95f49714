"""token_scores: the best token per row and its certainty, against the definition in fp64.

Mutants that this file kills: the last vocabulary column left out (it is the likeliest), the entropy's second
term with the other sign, the margin not divided by the row's sum, the winner counted twice in the sum.
"""

from __future__ import annotations

import importlib
import math

import pytest
import torch

from tests.kernels.cases import BACKENDS, EPS32, FAST
from tide_kernels import TokenScores, token_scores

MEASURES = ("log_p", "entropy", "margin")


def make(rows=13, vocab=1000, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    # The last column wins in every other row and weighs in the rest: code that drops it must fail.
    logits[:, -1] += 8
    logits[::2, -1] += 8
    return logits.to(dtype)


def truth(logits, **options):
    return token_scores(logits.double(), backend="reference", **options)


def worst_in_fp32_rounding(scores, expected):
    """Largest error of a measure, in fp32 roundings of its value and of 1."""
    return max(
        float(((one.double() - two).abs() / (1 + two.abs())).max() / EPS32)
        for one, two in zip(scores[1:], expected[1:], strict=True)
    )


def same(one, two):
    return all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
@pytest.mark.parametrize(("vocab", "rows"), [(7, 1), (1000, 13), (5003, 5)])
def test_equals_the_definition_in_fp64(vocab, rows, dtype, backend, few_rows_at_a_time):
    logits = make(rows, vocab, dtype)
    expected = truth(logits)
    scores = token_scores(logits, backend=backend)
    assert isinstance(scores, TokenScores)
    assert scores.token_ids.dtype == torch.int64
    assert torch.equal(scores.token_ids, expected.token_ids)
    assert all(getattr(scores, name).dtype == torch.float32 for name in MEASURES)
    assert worst_in_fp32_rounding(scores, expected) < (16 if backend == "reference" else 4)


def test_the_definition_is_the_formula():
    logits = make(5, 7)
    expected = truth(logits)
    for row, logit_row in enumerate(logits.double().tolist()):
        total = math.fsum(map(math.exp, logit_row))
        p = [math.exp(x) / total for x in logit_row]
        best, second = sorted(p, reverse=True)[:2]
        assert int(expected.token_ids[row]) == p.index(best)
        assert float(expected.log_p[row]) == pytest.approx(math.log(best), rel=1e-9)
        assert float(expected.entropy[row]) == pytest.approx(-math.fsum(x * math.log(x) for x in p), rel=1e-9)
        assert float(expected.margin[row]) == pytest.approx(best - second, rel=1e-9)


def test_fp64_stays_fp64():
    logits = make(dtype=torch.float64)
    expected = truth(logits)
    scores = token_scores(logits)
    assert all(getattr(scores, name).dtype == torch.float64 for name in MEASURES)
    assert worst_in_fp32_rounding(scores, expected) * EPS32 < 1e-14


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_vocabulary_of_one_is_certain(backend):
    scores = token_scores(make(vocab=1), backend=backend)
    assert scores.token_ids.tolist() == [0] * 13
    assert not scores.log_p.any() and not scores.entropy.any()
    assert scores.margin.tolist() == [1.0] * 13


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend):
    scores = token_scores(make(rows=0), backend=backend)
    assert all(x.shape == (0,) for x in scores)
    assert scores.token_ids.dtype == torch.int64 and scores.entropy.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vocab", [7, 5003])
def test_the_lowest_id_among_equals_and_a_margin_of_zero(vocab, backend):
    logits = make(vocab=vocab, dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    ties = torch.stack([torch.randperm(vocab, generator=generator)[:3] for _ in range(13)])
    logits.scatter_(1, ties, 100.0)
    scores = token_scores(logits, backend=backend)
    assert torch.equal(scores.token_ids, ties.amin(1))
    assert not scores.margin.any()
    assert float((scores.log_p + math.log(3)).abs().max()) < 4 * EPS32
    assert float((scores.entropy - math.log(3)).abs().max()) < 4 * EPS32


@pytest.mark.parametrize("backend", FAST)
def test_a_near_tie_keeps_the_digits_of_its_margin(backend):
    """Two logits 3e-8 apart: subtracting rounded probabilities gives 0 or 6e-8."""
    logits = torch.tensor([[0.0, 3e-8, -1.0]])
    expected = truth(logits)
    margin = token_scores(logits, backend=backend).margin
    assert 0 < float(expected.margin) < EPS32 / 4
    assert float((margin.double() / expected.margin - 1).abs()) < 8 * EPS32


@pytest.mark.parametrize("backend", FAST)
def test_a_confident_row_keeps_the_digits_of_its_rest(backend):
    """A sampler ranks confident rows too: with 1 - p = 1e-9, log p and entropy must not be 0."""
    logits = torch.tensor([[0.0, 20.7232658, -1.0], [0.0, 21.7232658, -1.0]])
    expected = truth(logits)
    scores = token_scores(logits, backend=backend)
    assert float(expected.log_p.abs().max()) < 2e-9
    for name in ("log_p", "entropy"):
        ratio = getattr(scores, name).double() / getattr(expected, name)
        assert float((ratio - 1).abs().max()) < 16 * EPS32, name
    assert scores.log_p[0] < scores.log_p[1] < 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_at_minus_infinity_have_no_probability(backend):
    logits = make(5, 60)
    kept = torch.arange(0, 60, 3)
    logits[:, torch.arange(60) % 3 != 0] = -torch.inf
    logits[3, :57] = -torch.inf  # one token is left
    logits[4, 6] = 1e4  # all others underflow
    expected = truth(logits[:, kept])
    scores = token_scores(logits, backend=backend)
    assert torch.equal(scores.token_ids, kept[expected.token_ids])
    assert worst_in_fp32_rounding(scores, expected) < 16
    for row, best in ((3, 57), (4, 6)):
        assert [float(x[row]) for x in scores] == [best, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("vocab", [1, 5])
@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_row_without_a_distribution_is_nan_and_the_others_are_not(bad, vocab, backend):
    logits = make(3, vocab)
    clean = token_scores(logits, backend=backend)
    if math.isnan(bad):
        logits[1, vocab // 2] = bad
    else:
        logits[1] = bad
    scores = token_scores(logits, backend=backend)
    for name in MEASURES:
        assert getattr(scores, name).isnan().tolist() == [False, True, False], name
    for one, two in zip(scores, clean, strict=True):
        assert torch.equal(one[::2], two[::2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_vocab_size_reads_a_prefix(backend):
    logits = make(vocab=60)
    narrow = token_scores(logits[:, :40].contiguous(), backend=backend)
    logits[:, 40:] = torch.nan
    assert same(token_scores(logits, vocab_size=40, backend=backend), narrow)


@pytest.mark.parametrize("backend", FAST)
def test_a_shift_of_the_row_changes_nothing(backend):
    logits = (make(vocab=100) * 16).round() / 16  # so that the shift is exact
    shift = torch.linspace(-1e4, 1e4, 13)[:, None].round() * 8
    assert same(token_scores(logits, backend=backend), token_scores(logits + shift, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_gradient(backend):
    logits = make(vocab=7).requires_grad_()
    assert not any(x.requires_grad for x in token_scores(logits, backend=backend))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize("spread", ["columns", "rows", "both"])
def test_inputs_are_read_only_and_need_not_be_contiguous(spread, backend, few_rows_at_a_time):
    plain = make()
    if spread == "columns":
        apart = plain.T.contiguous().T
    elif spread == "rows":
        apart = torch.full((13, 1100), torch.nan).narrow(1, 50, 1000).copy_(plain)
    else:
        apart = torch.full((26, 2000), torch.nan)[::2, ::2].copy_(plain)
    assert not apart.is_contiguous()
    expected = truth(plain)
    scores = token_scores(apart, backend=backend)
    assert torch.equal(scores.token_ids, expected.token_ids)
    assert worst_in_fp32_rounding(scores, expected) < 4
    assert torch.equal(apart, plain)


@pytest.mark.parametrize("backend", FAST)
def test_runs_are_bit_identical_and_no_buffer_is_read_before_it_is_written(backend, few_rows_at_a_time):
    for dtype in (torch.float32, torch.bfloat16):
        logits = make(dtype=dtype)
        first = token_scores(logits, backend=backend)
        torch.use_deterministic_algorithms(True)  # fills torch.empty with NaN
        try:
            second = token_scores(logits, backend=backend)
        finally:
            torch.use_deterministic_algorithms(False)
        assert same(first, second)


@pytest.mark.parametrize("splits", [2, 8])
@pytest.mark.parametrize("vocab", [7, 5003])
def test_programs_that_share_a_row_agree_with_one(vocab, splits, monkeypatch):
    """With 5003 columns in tiles of 1024, four of eight programs have no tile; with 7 columns, seven."""
    logits = make(vocab=vocab)
    logits[0] = -torch.inf
    logits[1, 0] = logits[1, -1] = 100.0
    logits[2, vocab // 2] = torch.nan
    logits[3, 1:] = -torch.inf
    logits[4] = -torch.inf
    logits[4, -1] = 2.0
    alone = token_scores(logits, backend="triton")
    launch = importlib.import_module("tide_kernels.token_scores.launch")  # the function hides the package
    monkeypatch.setattr(launch, "splits_for", lambda *_: splits)
    shared = token_scores(logits, backend="triton")
    sound = [row for row in range(13) if row not in (0, 2)]
    assert torch.equal(shared.token_ids[sound], alone.token_ids[sound])
    assert shared.token_ids[1] == 0 and shared.margin[1] == 0
    for name in MEASURES:
        one, two = getattr(alone, name), getattr(shared, name)
        assert one[[0, 2]].isnan().all() and two[[0, 2]].isnan().all(), name
        assert float((one - two)[sound].abs().max()) < 8 * EPS32, name


@pytest.mark.parametrize("backend", FAST)
def test_the_second_best_may_come_later(backend):
    """Tiles between the best two change the margin."""
    logits = make(3, 5003)[:, :-1]
    logits[:, 10], logits[:, 2500] = 20.0, 19.0
    expected = truth(logits)
    assert worst_in_fp32_rounding(token_scores(logits, backend=backend), expected) < 4


@pytest.mark.parametrize("backend", FAST)
def test_compiles_to_one_graph_and_ignores_autocast(backend):
    logits = make(vocab=60)
    expected = token_scores(logits, backend=backend)
    compiled = torch.compile(lambda x: token_scores(x, backend=backend), fullgraph=True, backend="aot_eager")
    assert same(compiled(logits), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert same(token_scores(logits, backend=backend), expected)
    torch.library.opcheck(torch.ops.tide_kernels.token_scores.default, (logits, 50, backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bounds_would_show_the_last_column_missing(backend):
    logits = make()
    expected = truth(logits)
    cut = token_scores(logits, vocab_size=999, backend=backend)
    best = expected.token_ids == 999
    assert best.sum() >= 6 and not (cut.token_ids == expected.token_ids)[best].any()
    for name in MEASURES:
        error = (getattr(cut, name).double() - getattr(expected, name)).abs()
        assert float(error.max()) > 1000 * EPS32, name


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (torch.zeros(2, 3, 9), {}, r"logits.*\(2, 3, 9\).*flatten"),
        (torch.zeros(3, 0), {}, r"logits.*columns.*\(3, 0\)"),
        (
            torch.zeros(3, 9, dtype=torch.int64),
            {},
            "logits.*bf16.*int64.*Cast",
        ),
        (torch.zeros(3, 9), {"vocab_size": 0}, r"vocab_size.*\[1, 9\].*0"),
        (torch.zeros(3, 9), {"vocab_size": 10}, r"vocab_size.*\[1, 9\].*10"),
        (
            torch.zeros(3, 9),
            {"backend": "cuda"},
            "backend 'cuda'.*triton",
        ),
    ],
)
def test_errors_name_function_argument_and_value(logits, options, message):
    with pytest.raises(ValueError, match=f"token_scores: .*{message}"):
        token_scores(logits, **options)

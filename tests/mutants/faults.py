"""Faults that the tests must find, each a plausible mistake: one line changed in one file.

A fault's old text must occur exactly once in its file, which `test_faults.py` checks, and its tests must run
without a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

KERNELS = "tide_kernels"
DIVERGENCE_RULES = "tests/kernels/test_divergence_rules.py"
DIVERGENCE_KERNELS = "tests/kernels/test_divergence_kernels.py"
DIVERGENCE_SPANS = "tests/kernels/test_divergence_spans.py"
BUILDS = "tests/kernels/test_builds.py"
ROW = "row = (tl.program_id(0) // SPLITS).to(tl.int64)"
SHORT_ROW = "row = tl.program_id(0) // SPLITS"


class Fault(NamedTuple):
    """A fault and the tests that must fail for it."""

    op: str
    backend: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # arguments of pytest


def selection(path: str, *words: str) -> tuple[str, ...]:
    return (path, "-k", " and ".join(words)) if words else (path,)


def _int32_rows(op: str, *, backward: bool = False) -> Fault:
    old, new = ROW, SHORT_ROW
    if backward:
        old, new = old.replace("(tl.program", "(N - 1 - tl.program"), new.replace("tl.", "N - 1 - tl.")
    name = f"row offsets in 32 bits, {'backward' if backward else 'forward'}"
    tests = selection(BUILDS, "architecture", op)
    folder = "divergence" if op in ("interpolated_kl", "reverse_kl") else op
    return Fault(op, "triton", name, f"{KERNELS}/{folder}/kernels.py", old, new, tests)


def _divergence(op: str, backend: str, name: str, file: str, old: str, new: str, *words: str) -> Fault:
    path = DIVERGENCE_KERNELS if "cut" in words or "digits" in words else DIVERGENCE_RULES
    if "many" in words or "any_tile" in words:
        path = DIVERGENCE_SPANS
    marks = (op, backend) if path == DIVERGENCE_RULES else (op,)
    return Fault(op, backend, name, f"{KERNELS}/{file}", old, new, selection(path, *words, *marks))


def single(op: str, backend: str, name: str, file: str, old: str, new: str, *words: str) -> Fault:
    path = f"tests/kernels/test_{op}.py"
    return Fault(op, backend, name, f"{KERNELS}/{file}", old, new, selection(path, *words, backend))


INTERPOLATED_KL = (
    _divergence(
        "interpolated_kl",
        "triton",
        "the last column is left out",
        "_shared/row_kernels.py",
        "return cols, cols < V",
        "return cols, cols < V - 1",
        "fp32",
    ),
    _divergence(
        "interpolated_kl",
        "triton",
        "the gradient has the other sign",
        "divergence/gradient_kernels.py",
        "gradient = surplus * weight",
        "gradient = -surplus * weight",
        "fp32",
    ),
    _divergence(
        "interpolated_kl",
        "triton",
        "the target is not divided by T",
        "divergence/kernels.py",
        "    scale = lambda_t / temperature\n",
        "    scale = lambda_t\n",
        "fp32",
    ),
    _divergence(
        "interpolated_kl",
        "triton",
        "tiles are merged without rescaling",
        "divergence/tilt_kernels.py",
        "share_a, share_b = mass_a * unit_a, mass_b * unit_b",
        "share_a, share_b = mass_a * 1.0, mass_b * unit_b",
        "cut",
    ),
    _divergence(
        "interpolated_kl",
        "triton",
        "the label's exponential stays in the sum",
        "divergence/tilt_kernels.py",
        "e = tl.where(cols == label, 0.0, e)",
        "e = tl.where(cols == label, e, e)",
        "fp32",
    ),
    _divergence(
        "interpolated_kl",
        "triton",
        "a tile that needs care stays in its span",
        "divergence/span_kernels.py",
        "    return tl.max(verdict, 0)\n",
        "    return tl.minimum(tl.max(verdict, 0), MIXED)\n",
        "many",
    ),
    _divergence(
        "interpolated_kl",
        "triton",
        "the label's tile stays in its span",
        "divergence/span_kernels.py",
        "end = tl.where((label_tile >= tile) & (label_tile < end), label_tile, end)",
        "end = tl.where((label_tile >= tile) & (label_tile < end), end, end)",
        "any_tile",
    ),
    _divergence(
        "interpolated_kl",
        "triton",
        "a span that outweighs the row is kept",
        "divergence/span_kernels.py",
        "if span_mass <= OUTWEIGH * mass:",
        "if (span_mass <= OUTWEIGH * mass) | (mass > 0.0):",
        "many",
    ),
    _int32_rows("interpolated_kl"),
    _int32_rows("interpolated_kl", backward=True),
    _divergence(
        "interpolated_kl",
        "torch",
        "the gradient has the other sign",
        "divergence/formulas.py",
        "w.expm1_()\n    w.mul_((weight / (total * -temperature))[:, None])",
        "w.expm1_()\n    w.mul_((weight / (total * temperature))[:, None])",
        "fp32",
    ),
    Fault(
        "interpolated_kl",
        "reference",
        "the target is not detached",
        f"{KERNELS}/divergence/reference.py",
        "return torch.log_softmax(mixed / temperature, dim=-1).detach()",
        "return torch.log_softmax(mixed / temperature, dim=-1)",
        selection("tests/kernels/test_interpolated_kl.py", "reference"),
    ),
)

REVERSE_KL = (
    _divergence(
        "reverse_kl",
        "triton",
        "the last tiles of a row that is split are left out",
        "_shared/row_kernels.py",
        "per_split = tl.cdiv(num_tiles, SPLITS)",
        "per_split = num_tiles // SPLITS",
        "cut",
    ),
    _divergence(
        "reverse_kl",
        "triton",
        "the gradient takes another row's statistics",
        "divergence/gradient_kernels.py",
        "    row_ptr = statistics_ptr + row * STATISTICS\n    mk = tl.load(row_ptr)",
        "    row_ptr = statistics_ptr + (row // 2) * STATISTICS\n    mk = tl.load(row_ptr)",
        "fp32",
    ),
    _divergence(
        "reverse_kl",
        "triton",
        "the mask is ignored",
        "divergence/gradient_kernels.py",
        "active = tl.load(mask_ptr + row) != 0",
        "active = tl.load(mask_ptr + row) >= 0",
        "mask",
    ),
    _divergence(
        "reverse_kl",
        "triton",
        "the excess is not moved to the mean",
        "divergence/kernels.py",
        "_, at_mean = shift(first, second, first, True)",
        "at_mean = second",
        "digits",
    ),
    _divergence(
        "reverse_kl",
        "triton",
        "a span is not moved to its own mean",
        "divergence/span_kernels.py",
        "    return centre + delta, first, second\n",
        "    return centre, first, second\n",
        "many",
    ),
    _int32_rows("reverse_kl"),
    _divergence(
        "reverse_kl",
        "torch",
        "the gradient is not divided by T",
        "divergence/formulas.py",
        "scale = lambda_t.new_full(lambda_t.shape, 1 / temperature)",
        "scale = lambda_t.new_full(lambda_t.shape, 1.0)",
        "fp32",
    ),
)

TOKEN_LOGPROB = (
    single(
        "token_logprob",
        "triton",
        "the token's exponential stays in the sum",
        "token_logprob/kernels.py",
        "e = tl.where(cols == label, 0.0, e)",
        "e = tl.where(cols == label, e, e)",
        "fp32",
    ),
    single(
        "token_logprob",
        "triton",
        "records are joined without rescaling",
        "token_logprob/kernels.py",
        "return mk, rest_a * tl.exp2(mk_a - base) + rest_b * tl.exp2(mk_b - base)",
        "return mk, rest_a + rest_b * tl.exp2(mk_b - base)",
        "fp32",
    ),
    single(
        "token_logprob",
        "triton",
        "the gradient has the other sign",
        "token_logprob/kernels.py",
        "scale = -d_log_p * tl.load(",
        "scale = d_log_p * tl.load(",
        "fp32",
    ),
    single(
        "token_logprob",
        "triton",
        "the gradient takes another row's statistics",
        "token_logprob/kernels.py",
        "mk = tl.load(statistics_ptr + row * STATISTICS)",
        "mk = tl.load(statistics_ptr + (row // 2) * STATISTICS)",
        "fp32",
    ),
    _int32_rows("token_logprob"),
    _int32_rows("token_logprob", backward=True),
    single(
        "token_logprob",
        "torch",
        "the token's exponential stays in the sum",
        "_shared/label.py",
        "return vocabulary.sum(vocabulary.put(buffer.exp_(), labels[:, None], 0.0))",
        "return vocabulary.sum(buffer.exp_())",
        "fp32",
    ),
)

TOKEN_SCORES = (
    single(
        "token_scores",
        "triton",
        "the highest id wins among equals",
        "token_scores/kernels.py",
        "a_wins = (m_a > m_b) | ((m_a == m_b) & (token_a < token_b))",
        "a_wins = (m_a > m_b) | ((m_a == m_b) & (token_a > token_b))",
        "equals",
    ),
    single(
        "token_scores",
        "triton",
        "the spread is not moved to the new maximum",
        "token_scores/kernels.py",
        "loser_spread = tl.where(a_wins, spread_b, spread_a) + apart * loser_sum",
        "loser_spread = tl.where(a_wins, spread_b, spread_a)",
        "fp64",
    ),
    single(
        "token_scores",
        "triton",
        "tiles between the best two are taken for small",
        "token_scores/kernels.py",
        "if m_tile >= second:",
        "if m_tile >= m:",
    ),
    single(
        "token_scores",
        "triton",
        "tiles between the best two stay in their span",
        "token_scores/kernels.py",
        "(lane_max(x, LANES) >= second)",
        "(lane_max(x, LANES) >= m)",
        "fp64",
    ),
    _int32_rows("token_scores"),
    single(
        "token_scores",
        "torch",
        "the winner stays in the sum",
        "token_scores/chunked.py",
        "torch.exp(shifted, out=exponentials).scatter_(1, column, 0.0)",
        "torch.exp(shifted, out=exponentials)",
        "fp64",
    ),
)

CHUNK_LIKELIHOOD = (
    single(
        "chunk_likelihood",
        "triton",
        "the last token is left out",
        "chunk_likelihood/kernels.py",
        "        in_row = start + lanes < length\n",
        "        in_row = start + lanes < length - 1\n",
        "fp32",
    ),
    single(
        "chunk_likelihood",
        "triton",
        "the slope is not divided by T",
        "chunk_likelihood/kernels.py",
        "slope = tl.where(inside != 0, slope / temperature, 0.0)",
        "slope = tl.where(inside != 0, slope, 0.0)",
        "fp32",
    ),
    single(
        "chunk_likelihood",
        "triton",
        "the slope has the other sign",
        "chunk_likelihood/kernels.py",
        "slope = s * (log_not_t - log_t)",
        "slope = s * (log_t - log_not_t)",
        "fp32",
    ),
    single(
        "chunk_likelihood",
        "triton",
        "the target's share of the student has a slope",
        "chunk_likelihood/kernels.py",
        "            slope = share * slope\n",
        "            slope = share * slope - (1.0 - share) * s * (log_s - log_not_s)\n",
        "fp32",
    ),
    single(
        "chunk_likelihood",
        "torch",
        "the slope is not divided by T",
        "chunk_likelihood/chunked.py",
        "slope.div(temperature).masked_fill(inactive, 0.0)",
        "slope.masked_fill(inactive, 0.0)",
        "fp32",
    ),
    Fault(
        "chunk_likelihood",
        "reference",
        "the target is not detached",
        f"{KERNELS}/chunk_likelihood/reference.py",
        "target = (share * target + (1 - share) * log_s.exp()).detach()",
        "target = share * target + (1 - share) * log_s.exp()",
        selection("tests/kernels/test_chunk_likelihood.py", "definition"),
    ),
)

LOGITS_FAULTS = (
    *INTERPOLATED_KL,
    *REVERSE_KL,
    *TOKEN_LOGPROB,
    *TOKEN_SCORES,
    *CHUNK_LIKELIHOOD,
)

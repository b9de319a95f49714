"""Faults of the C library."""

from __future__ import annotations

from tests.mutants.faults import DIVERGENCE_RULES, Fault, selection

LINEAR_TOKEN = "tests/kernels/test_linear_token_logprob.py"
NATIVE = "tests/kernels/test_native.py"


def _fault(op: str, name: str, file: str, old: str, new: str, path: str, *words: str) -> Fault:
    return Fault(op, "native", name, f"csrc/{file}", old, new, selection(path, *words))


NATIVE_FAULTS = (
    _fault(
        "interpolated_kl",
        "the sums are not scaled when the maximum rises",
        "cpu/divergence.h",
        "total *= factor, inside *= factor, outside *= factor, moment *= factor;",
        "(void)factor;",
        NATIVE,
        "tiles",
        "interpolated_kl",
    ),
    _fault(
        "interpolated_kl",
        "the label stays in the sum of the others",
        "cpu/divergence.h",
        "rest += in_tile ? FN(mass_but)(s, n, label - first, centre) : (double)sums.label;",
        "rest += (double)sums.label;",
        DIVERGENCE_RULES,
        "fp32",
        "interpolated_kl",
        "native",
    ),
    _fault(
        "interpolated_kl",
        "expm1(w) - w is subtracted for every w",
        "row_math.h",
        "return w < SERIES_REACH && w > -SERIES_REACH ? w * expm1_w * series : expm1_w - w;",
        "return w < 0 * SERIES_REACH && w > 0 * series ? w : expm1_w - w;",
        NATIVE,
        "tiles",
        "interpolated_kl",
    ),
    _fault(
        "reverse_kl",
        "the gradient is that of the other divergence",
        "cpu/divergence.h",
        "int linear = call->kind == REVERSE, power",
        "int linear = 0, power",
        NATIVE,
        "tiles",
        "reverse_kl",
    ),
    _fault(
        "reverse_kl",
        "rows that are infinite by definition are summed",
        "cpu/divergence.h",
        "trusted &= outside == 0;",
        "trusted &= 1;",
        "tests/kernels/test_reverse_kl.py",
        "native",
    ),
    _fault(
        "reverse_kl",
        "the teacher's mass where the student has none is forgotten",
        "cpu/divergence.h",
        "kl = log_grown - first_moment + log1p(elsewhere);",
        "kl = log_grown - first_moment;",
        NATIVE,
        "without_one",
        "reverse_kl",
    ),
    _fault(
        "interpolated_kl",
        "an entry without p keeps its w",
        "cpu/tiles.h",
        "if (odd) w = p != 0 ? w : 0;",
        "(void)odd;",
        NATIVE,
        "without_one",
        "interpolated_kl",
    ),
    _fault(
        "token_logprob",
        "log p near 1 from the total",
        "cpu/types.h",
        "return own == 1.0 ? below - log1p(rest) : below - log(rest + own);",
        "return below - (double)(float)log((float)(rest + own));",
        NATIVE,
        "tiles",
        "interpolated_kl",
    ),
    _fault(
        "linear_token_logprob",
        "the soft-cap's slope is left out",
        "cpu/tokens.h",
        "if (call->softcap != 0) FN(tile_cap)(x, n, (REAL)(1 / call->softcap), g);",
        "",
        LINEAR_TOKEN,
        "native",
    ),
    _fault(
        "token_scores",
        "the highest id wins a tie",
        "cpu/tokens.h",
        "if (x[i] > max) {",
        "if (x[i] >= max) {",
        "tests/kernels/test_token_scores.py",
        "native",
    ),
    _fault(
        "token_logprob",
        "a half gradient is cut, not rounded",
        "cpu/types.h",
        "rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;",
        "rounded = bits >> 16;",
        NATIVE,
        "rounds",
    ),
    _fault(
        "chunk_likelihood",
        "inactive chunks have a loss",
        "cpu/chunks.h",
        "losses[i] = active[chunk] ? loss : 0;",
        "losses[i] = loss;",
        "tests/kernels/test_chunk_likelihood_rules.py",
        "native",
    ),
    _fault(
        "chunk_likelihood",
        "the slope is not divided by T",
        "cpu/chunks.h",
        "inside ? in_log_p / call->temperature : 0",
        "inside ? in_log_p : 0",
        "tests/kernels/test_chunk_likelihood.py",
        "native",
    ),
    _fault(
        "interpolated_kl",
        "a row is taken twice and another left out",
        "cpu/rows.c",
        "(row = atomic_fetch_add(&todo->next, 1)) < todo->num_rows;)",
        "(row = atomic_fetch_add(&todo->next, 1) / 2 * 2) < todo->num_rows;)",
        NATIVE,
        "threads",
    ),
)

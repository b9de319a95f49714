"""Faults of the hidden-in ops; see `faults.py`."""

from __future__ import annotations

from tests.mutants.faults import KERNELS, LOGITS_FAULTS, Fault, selection, single
from tests.mutants.native_faults import NATIVE_FAULTS


def _linear(backend: str, name: str, file: str, old: str, new: str, word: str = "fp32") -> Fault:
    tests = selection("tests/kernels/test_linear_divergence.py", word, backend)
    return Fault("linear divergences", backend, name, f"{KERNELS}/{file}", old, new, tests)


LINEAR_TOKEN_LOGPROB = (
    single(
        "linear_token_logprob",
        "triton",
        "the last part of the width is left out",
        "linear_token_logprob/kernels.py",
        "in_width = at < d\n",
        "in_width = at < d - 1\n",
        "epilogue",
    ),
    single(
        "linear_token_logprob",
        "triton",
        "the token's exponential stays in the sum",
        "linear_token_logprob/kernels.py",
        "tl.sum(tl.where(is_label, 0.0, e), 1)",
        "tl.sum(e, 1)",
        "epilogue",
    ),
    single(
        "linear_token_logprob",
        "triton",
        "tiles are joined without rescaling",
        "linear_token_logprob/kernels.py",
        "rest = rest * tl.exp2(mk - base)",
        "rest = rest",
        "epilogue",
    ),
    single(
        "linear_token_logprob",
        "torch",
        "runs are merged without rescaling",
        "linear_token_logprob/chunked.py",
        "rest_a * (max_a - base).exp()",
        "rest_a",
        "fp32",
    ),
    single(
        "linear_token_logprob",
        "torch",
        "the hidden states' gradient is the last run's",
        "_shared/head_gradient.py",
        "self.d_hidden, add=run.start > 0)",
        "self.d_hidden, add=False)",
        "fp32",
    ),
)

LINEAR_DIVERGENCES = (
    _linear(
        "torch",
        "the weight's gradient is the last block's",
        "_shared/head_gradient.py",
        "later = d_logits.shape[1], rows.start > 0",
        "later = d_logits.shape[1], False",
    ),
    _linear(
        "triton",
        "a row block's gradient goes to the first rows",
        "linear_divergence/rows.py",
        "return self.d_block[block.start - gradient_block.start : block.stop - gradient_block.start]",
        "return self.d_block[0 : block.stop - block.start]",
    ),
    _linear(
        "triton",
        "the gradient forgets the logit scale",
        "linear_divergence/rows.py",
        "self.kl_weight = arguments.weight * head.options.logit_scale",
        "self.kl_weight = arguments.weight",
        "scale",
    ),
    _linear(
        "triton",
        "the gradient stops at the cap",
        "_shared/math_kernels.py",
        "return 1.0 - share * share",
        "return 1.0 - 0.0 * share",
        "scale",
    ),
    _linear(
        "torch",
        "the cap's slope is that of the product",
        "_shared/head.py",
        ".mul_(-1.0 / self.options.softcap**2)",
        ".mul_(-1.0 / self.options.softcap)",
        "scale",
    ),
)

FAULTS = (*LOGITS_FAULTS, *LINEAR_TOKEN_LOGPROB, *LINEAR_DIVERGENCES, *NATIVE_FAULTS)

"""linear_token_logprob: what it refuses, and how it says so."""

from __future__ import annotations

import pytest
import torch

from tests.kernels.linear_token_cases import call, make


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            {"hidden": torch.zeros(13, 5)},
            {},
            r"hidden \[N, d\] and weight \[V, d\] must share d; got \(13, 5\)",
        ),
        ({"hidden": torch.zeros(13)}, {}, "hidden must be two-dimensional"),
        ({"weight": torch.zeros(1000, 24, dtype=torch.int64)}, {}, "weight must be fp32, bf16"),
        ({"bias": torch.zeros(7)}, {}, "bias must have one entry for each of the 1000"),
        ({"token_ids": torch.full((13,), -1)}, {}, r"token_ids must lie in \[0, 1000\)"),
        (
            {"token_ids": torch.zeros(12, dtype=torch.int64)},
            {},
            "token_ids must have one entry for each of the 13",
        ),
        ({}, {"vocab_size": 0}, r"vocab_size must lie in \[1, 1000\]"),
        ({}, {"workspace_bytes": -5}, "workspace_bytes must be positive; got -5"),
        ({}, {"backend": "cuda"}, "unknown backend 'cuda'"),
    ],
)
def test_errors_name_function_rule_values_and_remedy(change, options, message):
    inputs, _ = make()
    with pytest.raises(ValueError, match=f"linear_token_logprob: .*{message}"):
        call({**inputs, **change}, **options)

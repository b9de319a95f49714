"""linear_token_logprob: what it refuses, and how it says so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.kernels.cases.linear_token import call, make


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
        (
            {"weight": torch.nn.Linear(24, 1000)},
            {},
            r"weight must be a torch tensor; got Linear\. Pass lm_head\.weight",
        ),
        (
            {"bias": torch.nn.Linear(24, 1000)},
            {},
            r"bias must be a torch tensor; got Linear\. Pass lm_head\.bias",
        ),
        (
            {"hidden": np.zeros((13, 24))},
            {},
            r"hidden must be a torch tensor; got ndarray\. torch\.as_tensor",
        ),
        ({"token_ids": [0] * 13}, {}, "token_ids must be a torch tensor; got list"),
        ({}, {"vocab_size": "40"}, r"vocab_size must be an integer; got '40'\. It is the number of entries"),
        ({}, {"workspace_bytes": "1G"}, "workspace_bytes must be an integer; got '1G'.*1 GiB is 1 << 30"),
        ({}, {"workspace_bytes": 1e9}, r"workspace_bytes must be an integer; got 1000000000\.0"),
        ({}, {"backend": "cuda"}, "unknown backend 'cuda'"),
    ],
)
def test_errors_name_function_rule_values_and_remedy(change, options, message):
    inputs, _ = make()
    with pytest.raises(ValueError, match=f"linear_token_logprob: .*{message}"):
        call({**inputs, **change}, **options)


def test_integers_of_numpy_count_too():
    inputs, _ = make()
    inputs["token_ids"] %= 900
    expected = call(inputs, vocab_size=900, workspace_bytes=4096)
    assert torch.equal(call(inputs, vocab_size=np.int64(900), workspace_bytes=np.int64(4096)), expected)

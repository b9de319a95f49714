"""linear_token_logprob: errors."""

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
            r"hidden.*weight.*share d.*\(13, 5\)",
        ),
        ({"hidden": torch.zeros(13)}, {}, "hidden.*two-dimensional"),
        ({"weight": torch.zeros(1000, 24, dtype=torch.int64)}, {}, "weight.*bf16.*int64"),
        ({"bias": torch.zeros(7)}, {}, "bias.*1000.*7"),
        ({"token_ids": torch.full((13,), -1)}, {}, r"token_ids.*\[0, 1000\).*-1"),
        (
            {"token_ids": torch.zeros(12, dtype=torch.int64)},
            {},
            "token_ids.*13 rows",
        ),
        ({}, {"vocab_size": 0}, r"vocab_size.*\[1, 1000\].*0"),
        ({}, {"workspace_bytes": -5}, "workspace_bytes.*positive.*-5"),
        (
            {"weight": torch.nn.Linear(24, 1000)},
            {},
            r"weight.*Linear.*lm_head\.weight",
        ),
        (
            {"bias": torch.nn.Linear(24, 1000)},
            {},
            r"bias.*Linear.*lm_head\.bias",
        ),
        (
            {"hidden": np.zeros((13, 24))},
            {},
            r"hidden.*ndarray.*as_tensor",
        ),
        ({"token_ids": [0] * 13}, {}, "token_ids.*tensor.*list"),
        ({}, {"vocab_size": "40"}, "vocab_size.*integer.*'40'"),
        ({}, {"workspace_bytes": "1G"}, "workspace_bytes.*integer.*'1G'.*1 << 30"),
        ({}, {"workspace_bytes": 1e9}, r"workspace_bytes.*integer.*1000000000\.0"),
        ({}, {"backend": "cuda"}, "backend 'cuda'"),
    ],
)
def test_errors_name_function_argument_and_value(change, options, message):
    inputs, _ = make()
    with pytest.raises(ValueError, match=f"linear_token_logprob: .*{message}"):
        call({**inputs, **change}, **options)


def test_integers_of_numpy_count_too():
    inputs, _ = make()
    inputs["token_ids"] %= 900
    expected = call(inputs, vocab_size=900, workspace_bytes=4096)
    assert torch.equal(call(inputs, vocab_size=np.int64(900), workspace_bytes=np.int64(4096)), expected)

"""Hypothesis strategies; apart from the cases, which run on machines without hypothesis."""

from __future__ import annotations

import torch
from hypothesis import strategies as st


@st.composite
def divergence_calls(draw):
    """Shapes, layouts, dtypes and options of a call, and a seed for its values."""
    return {
        "rows": draw(st.integers(0, 5)),
        "vocab": draw(st.integers(1, 200)),
        "extra": draw(st.tuples(st.integers(0, 9), st.integers(0, 9))),
        "strides": draw(st.tuples(st.sampled_from([1, 2]), st.sampled_from([1, 2]))),
        "transposed": draw(st.tuples(st.booleans(), st.booleans())),
        "dtypes": draw(st.tuples(*[st.sampled_from([torch.float32, torch.bfloat16, torch.float16])] * 2)),
        "temperature": draw(st.sampled_from([1.0, 2.0, 0.7, 5.0])),
        "labels": draw(st.booleans()),
        "mask": draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=5, max_size=5))),
        "splits": draw(st.sampled_from([1, 2, 5])),
        "seed": draw(st.integers(0, 2**16)),
    }

"""The table of methods."""

from __future__ import annotations

from tide.methods import METHODS


def test_method_names_and_what_each_needs() -> None:
    needs = {name: (m.teacher, m.lambda_axis, m.timestep_weight, m.comp_demo) for name, m in METHODS.items()}
    assert needs == {
        "none": ("none", "both", "uniform", False),
        "kl": ("shared", "both", "uniform", False),
        "reverse_kl": ("shared", "both", "uniform", False),
        "taid": ("shared", "training", "uniform", False),
        "tidal": ("shared", "both", "uniform", False),
        "tide_shared": ("shared", "both", "midrange", True),
        "calm": ("any", "both", "uniform", False),
        "tide_cross": ("any", "both", "uniform", False),
        "tide_shared_chunks": ("any", "both", "midrange", True),
    }

"""What every test runs under: few threads, fixed seeds, no network."""

from __future__ import annotations

import os

_CORES = os.cpu_count() or 1
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
# Before torch is imported: OpenMP reads it once. More threads than cores makes small ops ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _CORES // _WORKERS)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Triton reads it where kernels are imported. Compilation for GPUs is tested in processes that unset it.
os.environ["TRITON_INTERPRET"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that would download fails at once, on every machine alike

import random

import numpy as np
import pytest
import torch
from hypothesis import settings

# Deadlines measure the machine's load, and a random search fails on one machine only.
settings.register_profile("tide", deadline=None, derandomize=True)
settings.load_profile("tide")

pytest_plugins = ["tests.tiny"]


@pytest.fixture(autouse=True)
def _seeds() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)

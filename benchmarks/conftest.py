"""Options, order and fixtures of the benchmarks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from benchmarks._cases import BOTH, Case
from benchmarks._environment import describe, slug
from benchmarks._op import Op
from benchmarks._results import Store
from benchmarks._session import Session
from benchmarks._timing import ROUNDS
from benchmarks.ops import OPS

RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tide benchmarks")
    group.addoption("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    group.addoption("--results", type=Path, default=RESULTS, help="folder that gets a folder per device")
    group.addoption("--budget-seconds", type=float, default=None, help="start no case that would end later")
    group.addoption("--seconds-per-case", type=float, default=None, help="rounds of one case")
    group.addoption("--shape", type=int, nargs=2, default=None, metavar=("N", "V"), help="the only shape")


def _device(config: pytest.Config) -> torch.device:
    asked = config.getoption("--device")
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(asked)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" not in metafunc.fixturenames:
        return
    device, shape = _device(metafunc.config).type, metafunc.config.getoption("--shape")
    stage = 0 if metafunc.function.__name__ == "bench_headline" else 1
    pairs = [(op, case) for op in OPS for case in op.cases(device, shape and tuple(shape))]
    pairs = sorted((pair for pair in pairs if pair[1].stage == stage), key=_order)
    metafunc.parametrize(("op", "case"), pairs, ids=[_id(case) for _, case in pairs])


def _id(case: Case) -> str:
    """`tidal-forward-N4096-V151936-bfloat16`: what `-k` selects by."""
    parts = case.label.replace(" / ", "x").split(", ")
    return "-".join([parts[0].replace(" ", "-"), *(re.sub("[ ,]", "", part) for part in parts[1:])])


def _order(pair: tuple[Op, Case]) -> tuple[bool, bool, bool, int]:
    """What has targets first, quick cases before slow ones."""
    op, case = pair
    return (case.mode != BOTH, not op.targets, case.student_hidden > 0, case.rows)


@pytest.fixture(scope="session")
def session(pytestconfig: pytest.Config) -> Session:
    """State of this run."""
    device = _device(pytestconfig)
    rounds = ROUNDS[device.type]
    seconds = pytestconfig.getoption("--seconds-per-case")
    if seconds is not None:
        rounds = rounds._replace(seconds=seconds, least=3)
    store = Store(pytestconfig.getoption("--results") / slug(device), describe(device))
    return Session(device, store, rounds, pytestconfig.getoption("--budget-seconds"))

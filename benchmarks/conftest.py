"""Options, order and fixtures of the benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from benchmarks._cases import BOTH, Case
from benchmarks._environment import describe, slug
from benchmarks._op import Op
from benchmarks._results import Store
from benchmarks._session import Measurements
from benchmarks._timing import ROUNDS

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tide benchmarks")
    group.addoption("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    group.addoption("--results", type=Path, default=RESULTS, help="folder that gets a folder per device")
    group.addoption("--budget-seconds", type=float, default=None, help="start no case that would end later")
    group.addoption(
        "--seconds-per-case", type=float, default=None, help="rounds of one case, all contestants"
    )
    group.addoption("--shape", type=int, nargs=2, default=None, metavar=("N", "V"), help="the only shape")


def _device(config: pytest.Config) -> torch.device:
    asked = config.getoption("--device")
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(asked)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"case", "contestant"} <= set(metafunc.fixturenames):
        op: Op = metafunc.module.OP
        shape = metafunc.config.getoption("--shape")
        pairs = [
            pytest.param(case, contestant.name, id=f"{_id(case)}-{contestant.name}")
            for case in op.cases(_device(metafunc.config).type, tuple(shape) if shape else None)
            for contestant in op.contestants
            if case.stage == 0 or not contestant.headline_only
        ]
        metafunc.parametrize(("case", "contestant"), pairs)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run headlines first, across files, so that a run that exhausts its budget has them."""

    def key(item: pytest.Item) -> tuple[int, bool, bool, int]:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        case: Case | None = parameters.get("case")
        if case is None:  # the whole step, after the headlines
            return (0, False, True, 1)
        # Cases with heads take several times as long.
        slow = case.student_hidden > 0
        return (case.stage, case.mode != BOTH, slow, case.rows if case.stage else 0)

    items.sort(key=key)


@pytest.fixture(scope="session")
def measurements(pytestconfig: pytest.Config) -> Measurements:
    """State of this run."""
    device = _device(pytestconfig)
    rounds = ROUNDS[device.type]
    seconds = pytestconfig.getoption("--seconds-per-case")
    if seconds is not None:
        rounds = rounds._replace(seconds=seconds, least=3)
    store = Store(pytestconfig.getoption("--results") / slug(device), describe(device))
    return Measurements(device, store, rounds, pytestconfig.getoption("--budget-seconds"))


@pytest.fixture(autouse=True)
def _clock(measurements: Measurements, benchmark: BenchmarkFixture) -> None:
    # Rounds are timed on the device and replayed to pytest-benchmark through its timer.
    benchmark._timer = measurements.clock


def _id(case: Case) -> str:
    parts = [case.variant, case.mode, f"N{case.rows}"]
    if case.vocab:
        parts.append(f"V{case.vocab}" + ("" if case.vocab == case.width else f"of{case.width}"))
    if case.student_hidden:
        parts.append(f"d{case.student_hidden}" + (f"x{case.teacher_hidden}" if case.teacher_hidden else ""))
    return "-".join([*parts, case.dtype])

"""How commands end: no traceback, whatever happens, and a status that says which way it went."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tide.cli import recipe as recipe_command
from tide.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("program", "named"),
    [
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first second"),
        ("{}['key']", "KeyError: 'key'"),
        ("raise MemoryError", "MemoryError"),
        ("f = lambda: f()\nf()", "RecursionError: maximum recursion depth exceeded.*"),
        ("int('x')", r"ValueError: invalid literal for int\(\) with base 10: 'x'"),  # of a library
    ],
)
def test_an_unexpected_error_is_one_line_and_a_log(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    program: str,
    named: str,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(recipe_command, "run", lambda arguments: exec(program, {"__name__": "library"}))
    assert main(["recipe"]) == 1
    (log,) = tmp_path.iterdir()
    out, err = capsys.readouterr()
    line = rf"tide recipe: unexpected {named}\. The traceback is in {log}\n"
    assert out == "" and re.fullmatch(line, err), err
    assert log.read_text().startswith("Traceback") and named.split(":")[0] in log.read_text()


def test_without_a_place_for_the_log_the_line_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    monkeypatch.setattr(recipe_command, "run", lambda arguments: {}["key"])
    assert main(["recipe"]) == 1
    assert re.fullmatch(r"tide recipe: unexpected KeyError: .* set TMPDIR.*\n", capsys.readouterr().err)


def test_sigterm_ends_a_command_as_an_interrupt_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(recipe_command, "run", lambda arguments: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["recipe"]) == 143
    assert capsys.readouterr().err == "\ntide recipe: terminated\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("reader", "status", "said"),
    [
        ("| head -n 1 > /dev/null; exit ${PIPESTATUS[0]}", 141, ""),
        ("> /dev/full", 2, r"tide recipe: \[Errno 28\] No space left on device\n"),
    ],
)
def test_an_output_that_is_full_or_closed(reader: str, status: int, said: str) -> None:
    # Longer than a pipe holds.
    program = "import sys\nfrom tide.cli import main, recipe\nimport tide.cli.main as m\n"
    program += "recipe.run = lambda arguments: print('line\\n' * 100_000)\nsys.exit(m.main(['recipe']))"
    command = ["bash", "-c", f'"$0" -c "$1" {reader}', sys.executable, program]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == status and re.fullmatch(said, ran.stderr), ran


def test_deep_nesting_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = tmp_path / "deep.yaml"
    for text in ("[" * 100_000, "a: " + "{b: " * 100_000, "- " * 100_000, json.dumps({"a": 1})[:-1] * 3):
        deep.write_text(text)
        assert main(["distill", str(deep)]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main(["distill", str(deep), "data.sources=" + "[" * 100_000]) == 2

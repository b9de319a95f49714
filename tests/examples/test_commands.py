"""Commands run in processes: their output and every way to fail come back."""

from __future__ import annotations

import pytest

from examples.quickstart.commands import Commands, steps_done
from tide.training.progress import step_line

PROGRAMS = {
    "good": "import os, sys; print(os.environ['OMP_NUM_THREADS'], sys.argv[1:]); print('x', file=sys.stderr)",
    "bad": "import sys; print('first', file=sys.stderr); sys.exit('the rule, the values, the remedy')",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "slow": "import time; open('began', 'w'); time.sleep(60); open('done', 'w')",
}


@pytest.fixture(autouse=True)
def programs(tmp_path, monkeypatch):
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)


def test_output_comes_back_and_errors_go_to_the_log(tmp_path):
    log = tmp_path / "logs" / "job.log"
    assert Commands().run("good", "a", "b", log=log) == "1 ['a', 'b']\n"
    assert log.read_text() == "x\n"


def test_a_failed_command_names_its_last_line_and_its_log(tmp_path):
    with pytest.raises(RuntimeError, match=r"bad x: exit status 1: the rule.*remedy\n.*job\.log"):
        Commands().run("bad", "x", log=tmp_path / "job.log")
    with pytest.raises(RuntimeError, match="exit status -9"):
        Commands().run("killed", log=tmp_path / "killed.log")


def test_the_first_failure_stops_the_others(tmp_path):
    commands = Commands()

    def fail():
        while not (tmp_path / "began").exists():
            pass
        raise RuntimeError("first")

    functions = [lambda: commands.run("slow", log=tmp_path / "slow.log"), fail]
    functions += [lambda: pytest.fail("started after the failure")]
    with pytest.raises(RuntimeError, match="first"):
        commands.side_by_side(functions, jobs=2)
    assert not (tmp_path / "done").exists()
    with pytest.raises(RuntimeError, match="stopped"):
        commands.run("good", log=tmp_path / "late.log")


def test_steps_are_read_from_the_lines_of_figures(tmp_path):
    log = tmp_path / "log"
    lines = [step_line(step, 100, {"loss": 1.0, "lr": 0.1}) for step in (10, 20)]
    log.write_text("\n".join(["loading a and b", *lines, "ste"]))
    assert steps_done(log, 100) == 20
    assert steps_done(log, 80) == 0

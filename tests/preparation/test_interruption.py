"""An interrupted preparation with several workers, and one whose processes are killed."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

import pytest

from tests.preparation.prepared import files, recipe_of
from tide.preparation import Preparation, ShardDirectory
from tide.preparation.prepare import _children_ignore_interrupts, _made

PREPARE = import_module("tide.preparation.prepare")  # the package has a function of this name


class RecordingPool(PREPARE.ProcessPoolExecutor):
    """How SIGINT is handled where processes start, and the bytes that go through the pipe of each."""

    handlers: list[object]
    sent: int

    def __init__(self, workers, context, begin, arguments) -> None:
        super().__init__(workers, context, begin, arguments)
        type(self).handlers, type(self).sent = [], len(pickle.dumps(arguments[0]))

    def submit(self, *arguments):
        self.handlers.append(signal.getsignal(signal.SIGINT))
        return super().submit(*arguments)


@pytest.mark.slow
def test_an_interruption_does_not_wait_for_parts_not_begun(tiny_checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(PREPARE, "ProcessPoolExecutor", RecordingPool)
    sources = [{"path": str(tiny_checkpoints.rows), "weight": 1000}]
    recipe = recipe_of(tiny_checkpoints, tmp_path, train=None, sources=sources)
    preparation = Preparation.of(recipe, shard_rows=10)
    directory = ShardDirectory(tmp_path / "prepared")
    directory.path.mkdir()
    numbers = list(range(800))
    before, said = signal.getsignal(signal.SIGINT), []
    made = _made(preparation, numbers, directory, 2, said.append)
    next(made)
    assert signal.getsignal(signal.SIGINT) is before
    assert RecordingPool.handlers == [signal.SIG_IGN] * 800
    # Less than a pipe holds: the start of one worker does not wait for the imports of another.
    assert RecordingPool.sent < 1000 < len(pickle.dumps(preparation.mixture))
    with pytest.raises(KeyboardInterrupt):
        made.throw(KeyboardInterrupt)
    assert said == ["stopping; shards in work are being finished"]
    assert 1 <= len(list(directory.path.glob("part-*.json"))) < 400


def test_a_part_that_cannot_be_cancelled_is_not_begun(monkeypatch):
    stop = threading.Event()
    monkeypatch.setattr(PREPARE, "_job", ("preparation", "directory", stop))
    monkeypatch.setattr(PREPARE, "write_part", lambda *given: given)
    assert PREPARE._write_part(3) == ("preparation", 3, "directory")
    stop.set()
    assert PREPARE._write_part(3) is None


def test_a_process_that_starts_meanwhile_ignores_interrupts():
    program = "import signal; print(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)"

    def ignores() -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip()

    def handler(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGINT, handler)
    try:
        with pytest.raises(OSError, match="no process"), _children_ignore_interrupts():
            found = ignores()
            raise OSError("no process")
        assert (found, ignores()) == ("True", "False")
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_than_the_main_one_leaves_interrupts_alone():
    seen = []

    def start():
        with _children_ignore_interrupts():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


# The command on a recipe, with parts of 20 rows.
PROGRAM = """
import sys
from tide.cli.main import main
from tide.preparation.prepare import prepare
prepare.__kwdefaults__["shard_rows"] = 20
sys.exit(main(["prepare", sys.argv[1], "--workers=2"]))
"""


def test_a_preparation_killed_while_it_wrote_its_plan_is_done_again(tiny_checkpoints, tmp_path):
    recipe, directory = recipe_of(tiny_checkpoints, tmp_path), tmp_path / "prepared"
    directory.mkdir()
    (directory / "plan.json.new").write_text("{")
    assert PREPARE.prepare(recipe, workers=1).counts.kept == 8
    assert not list(directory.glob("*.new"))


def workers_of(process: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == process and b"spawn_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


AGAIN = "Run the same command again to go on"


def wait_until(is_so, seconds=120):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("who", "number", "status", "said"),
    [
        pytest.param("parent", signal.SIGTERM, 143, f"terminated. {AGAIN}.", marks=pytest.mark.slow),
        ("parent", signal.SIGKILL, -9, ""),
        pytest.param(
            *("worker", signal.SIGKILL, 2, f"a worker process was killed, .* {AGAIN};"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_killed_process_leaves_none_behind(tiny_checkpoints, tmp_path, who, number, status, said):
    sources = [{"path": str(tiny_checkpoints.rows), "weight": 300}]
    recipe = recipe_of(tiny_checkpoints, tmp_path, train=None, sources=sources)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "scratch").mkdir()
    directory = tmp_path / "prepared"
    path = os.pathsep.join(filter(None, sys.path))
    command = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "recipe.yaml")],
        env={**os.environ, "TMPDIR": str(tmp_path / "scratch"), "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: command.poll() is not None or list(directory.glob("part-*.json")))
    workers = workers_of(command.pid)
    assert len(workers) == 2, command.communicate()
    os.kill(command.pid if who == "parent" else workers[0], number)
    _, err = command.communicate(timeout=120)
    assert command.returncode == status, err
    lines = [line for line in err.splitlines() if line.startswith("tide prepare: ")]
    assert re.search(said, (lines or [""])[-1]) and "Traceback" not in err, err
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 30)
    wait_until(lambda: not list((tmp_path / "scratch").iterdir()), 30)
    done = set(directory.glob("part-*.json"))
    assert 0 < len(done) < 120 and (status == -9 or not list(directory.glob("*.new")))
    log = []
    manifest = PREPARE.prepare(recipe, workers=1, shard_rows=20, log=log.append)
    assert re.search(r"holds \d+ of 120 shards already; resuming", log[0])
    assert manifest.counts.kept == 2400 and len(files(directory)) == 2 * 120 + 2

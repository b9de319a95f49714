"""An interrupted preparation with several workers: the parent stops, the workers ignore the signal."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import threading
from importlib import import_module

import pytest

from tests.preparation.prepared import recipe_of
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

"""One writer per directory, which is named; refused writes name the path and the free space."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tide.disk import one_writer, others_in, writing


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    program = (
        "import sys\nfrom pathlib import Path\nfrom tide.disk import one_writer\n"
        "try:\n    with one_writer('prepare', Path(sys.argv[1])): pass\n"
        "except ValueError as error: sys.exit(str(error))"
    )
    second = [sys.executable, "-c", program, str(directory)]
    with one_writer("distill", directory):
        assert others_in(directory) == []
        said = subprocess.run(second, capture_output=True, text=True).stderr
        assert re.fullmatch(
            rf"prepare: process {os.getpid()} on {re.escape(socket.gethostname())}, since 20\d\d-\S+ \S+, "
            rf"writes to '{directory}'\. Wait until it ends, stop it, or name another directory\.\n",
            said,
        ), said
        (directory / "kept").touch()
    assert subprocess.run(second, capture_output=True, text=True).stderr == ""
    assert [path.name for path in directory.iterdir()] == ["kept"]


def test_a_lock_that_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom tide.disk import one_writer\n"
        "with one_writer('distill', Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == -9
    assert list(tmp_path.iterdir()) and others_in(tmp_path) == []
    with one_writer("distill", tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_no_directory_is_left_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError), one_writer("distill", tmp_path / "a" / "b"):
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space"), "No space left on device"),
        (OSError(errno.EROFS, "Read-only", "{}/a"), "Read-only file system"),
        (OSError(errno.EACCES, "Denied", "{}/a"), "Permission denied"),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "No space",
        ),
        (RuntimeError("[enforce fail at inline_container.cc:783] . file write failed"), "No space left"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
            "No space left",
        ),
        (RuntimeError("basic_ios::clear: iostream error"), "No space left"),
    ],
)
def test_a_refused_write_names_path_and_space(tmp_path: Path, error: Exception, reason: str) -> None:
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.format(tmp_path)
    with pytest.raises(OSError, match=reason) as caught, writing(tmp_path), writing(tmp_path / "a"):
        raise error
    said = str(caught.value)
    assert re.fullmatch(
        rf"cannot write '{tmp_path}/a': [^:]+, [\d,]+ MiB free there\. .*another place\.", said
    )


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere"),
        PermissionError(errno.EACCES, "Denied", "/elsewhere/data.jsonl"),
        ValueError("the rule"),
    ],
)
def test_other_errors_stay_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, writing(tmp_path):
        raise error
    assert caught.value is error

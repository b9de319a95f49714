"""How a command ends: errors as lines, and the traceback of an unexpected one in a file."""

from __future__ import annotations

import signal
import tempfile
import threading
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_OURS = ("tide", "tide_kernels", "examples")
_LONGEST = 300  # characters of an unexpected error's message


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does: files and processes are tidied up."""


@contextmanager
def terminated_by_signal() -> Iterator[None]:
    """Raise `Terminated` for SIGTERM inside the block, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier or signal.SIG_DFL)


def is_expected(error: Exception) -> bool:
    """True for an error of the file system, and for a ValueError that tide raises itself."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    is_ours = frame.f_globals.get("__name__", "").split(".")[0] in _OURS
    return isinstance(error, OSError) or (isinstance(error, ValueError) and is_ours)


def unexpected(command: str, error: Exception) -> str:
    """Write the traceback to a file; return the line that names both."""
    said = " ".join(str(error).split())[:_LONGEST]
    line = f"unexpected {type(error).__name__}{said and ': '}{said}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"tide-{command}-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
        ) as log:
            log.writelines(traceback.format_exception(error))
    except OSError as full:
        return f"{line}. Its traceback cannot be written ({full}): set TMPDIR, and run it again."
    return f"{line}. The traceback is in {log.name}"


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated

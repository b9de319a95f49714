"""The C library of backend `native`: built from csrc/ at first use, or with the wheel; loaded by ctypes.

A build is kept in the user's cache directory, by a hash of sources, compiler and processor family.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_SOURCES = Path(__file__).parents[2] / "csrc"
FLAGS = ("-std=gnu11", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math")
_LINKING = ("-fPIC", "-shared", "-pthread", "-lm")
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}

# Below this size the call costs as much as it saves.
_SMALLEST_ON_HUGE_PAGES = 8 << 20

_LONGEST = 300  # characters of a compiler's message

_log = logging.getLogger(__name__)
_library: ctypes.CDLL | None = None
_failure = ""


class Rows(ctypes.Structure):
    """`tide_rows` of csrc/cpu/types.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("type", ctypes.c_int32),
        ("unused", ctypes.c_int32),
    )

    @classmethod
    def of(cls, x: Float[Tensor, "N V"]) -> Rows:
        """Rows of a tensor whose columns are adjacent."""
        return cls(x.data_ptr(), x.stride(0), _TYPES[x.dtype], 0)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_native() -> bool:
    """Return True if the library could be loaded; the first call may build it."""
    return not native_failure()


def native_failure() -> str:
    """Why the library could not be loaded; empty if it could."""
    global _library, _failure
    if _library is None and not _failure:
        try:
            _library = _opened()
        # RuntimeError: no home; ValueError: quotes in $CC.
        except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", "") or error
            _failure = " ".join(str(said).split())[:_LONGEST] or repr(error)
            _log.debug("backend 'native' is not available, backend 'torch' takes its place: %s", _failure)
    return _failure


def run(function: str, call: ctypes.Structure, *, wide: bool) -> None:
    """Call a function of the library; `wide` sums in doubles."""
    getattr(_loaded(), function)(ctypes.byref(call), ctypes.c_int(wide))


def pointer(x: Tensor | None) -> int | None:
    """Address of a contiguous tensor."""
    assert x is None or x.is_contiguous()
    return None if x is None else x.data_ptr()


def on_huge_pages(x: Tensor) -> Tensor:
    """Request huge pages for x (contiguous, not yet written) and return it.

    Writing a fresh [N, V] gradient spends most of its time in page faults, one per 4 KiB; 2 MiB pages halve
    it. A hint: nothing happens before the library is loaded, and where the system knows no such pages.
    """
    num_bytes = x.numel() * x.element_size()
    if num_bytes >= _SMALLEST_ON_HUGE_PAGES and x.device.type == "cpu" and _library is not None:
        _library.tide_huge_pages(ctypes.c_void_p(x.data_ptr()), ctypes.c_int64(num_bytes))
    return x


def _loaded() -> ctypes.CDLL:
    if _library is None and native_failure():
        raise OSError(f"backend 'native' is not available: {_failure}")
    assert _library is not None
    return _library


def _opened() -> ctypes.CDLL:
    if not (_SOURCES / "cpu" / "rows.c").is_file():
        return ctypes.CDLL(str(_packaged()))
    built = _built()
    try:
        return ctypes.CDLL(str(built))
    except OSError:  # damaged
        built.unlink()
        return ctypes.CDLL(str(_built()))


def _packaged() -> Path:
    spec = importlib.util.find_spec("tide_kernels._native")
    if spec is None or spec.origin is None:
        raise OSError("the package was installed without its C library, for want of a compiler")
    return Path(spec.origin)


def _built() -> Path:
    """The library of the present sources, compiled unless it was before."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True).stdout
    digest = hashlib.sha256(version + f"{compiler}\n{platform.machine()}\n{FLAGS}".encode())
    for source in sorted(_SOURCES.rglob("*.[ch]")):
        digest.update(source.read_bytes())
    built = _cache() / f"native-{digest.hexdigest()[:16]}.so"
    if not built.exists():
        # Written aside: another process may build it, too.
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            made = Path(folder) / built.name
            command = [*compiler, *FLAGS, str(_SOURCES / "cpu" / "rows.c"), "-o", str(made), *_LINKING]
            subprocess.run(command, capture_output=True, check=True, text=True, errors="replace")
            with made.open("rb") as library:
                os.fsync(library.fileno())  # A torn library would end every later process that loads it.
            made.replace(built)
    return built


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tide"
    folder.mkdir(parents=True, exist_ok=True)
    return folder

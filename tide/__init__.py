"""tide: distillation of diffusion language models across architectures and tokenizers.

`tide.losses` needs torch alone; the names below load transformers when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tide._version import __version__

if TYPE_CHECKING:
    from tide.config import Recipe, load_recipe
    from tide.pipeline import DistillResult, distill
    from tide.sampling import generate

__all__ = ["DistillResult", "Recipe", "__version__", "distill", "generate", "load_recipe"]

_HOMES = {
    "DistillResult": "tide.pipeline",
    "Recipe": "tide.config",
    "distill": "tide.pipeline",
    "generate": "tide.sampling",
    "load_recipe": "tide.config",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

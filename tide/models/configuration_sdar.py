"""Configuration of an exported SDAR model. `tide export` ships this file with the model."""

from typing import Any

from transformers import Qwen3Config


class SDARConfig(Qwen3Config):  # type: ignore[misc]
    """Qwen3's configuration, with `rope_theta` in every version of transformers.

    Version 5 moves `rope_theta` into `rope_parameters`; an engine that misses it takes 10000.
    """

    model_type = "sdar"

    def __getattr__(self, name: str) -> Any:
        rope = self.__dict__.get("rope_parameters") or {}
        if name == "rope_theta" and name in rope:
            return rope[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

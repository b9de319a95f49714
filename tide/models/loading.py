"""Models from a folder or the hub, with checks that run before any weight is read.

Supported: Qwen3 as transformers ships it, and `a2d-qwen3` (Qwen3 weights converted to block diffusion), which
has the same parameters and loads as Qwen3.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from transformers import PretrainedConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from tide.models.places import first_line, reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

SUPPORTED_MODEL_TYPES = ("qwen3", "a2d-qwen3")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_config(path: str) -> PretrainedConfig:
    """Read a model's configuration without its weights.

    Raises:
        ValueError: no readable config.json at `path`, or an unsupported architecture.
    """
    with reading("load_config", "config.json", path, "saved by save_pretrained"):
        values, _ = PretrainedConfig.get_config_dict(path)
        if not values:  # transformers reads a folder without the file as an empty configuration
            raise FileNotFoundError("no such file")
    model_type = values.get("model_type")
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise ValueError(
            f"load_config: {path!r} has model_type {model_type!r}; supported are "
            f"{', '.join(SUPPORTED_MODEL_TYPES)}. Convert the model to one of them."
        )
    foreign = ("model_type", "auto_map", "architectures")
    return Qwen3Config.from_dict({key: value for key, value in values.items() if key not in foreign})


def check_weights(path: str) -> None:
    """Read the headers of a folder's safetensors files, which is cheap. A hub id is not looked up.

    Raises:
        ValueError: a file is missing, cut or corrupt.
    """
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("pytorch_model*.bin*")):
        return
    index = folder / "model.safetensors.index.json"
    with _reading_weights("check_weights", path):
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else {}
        for name in sorted(set(named.values()) or {"model.safetensors"}):
            with safe_open(folder / name, framework="pt"):
                pass


def load_model(path: str, *, dtype: str = "float32", trainable: bool) -> PreTrainedModel:
    """Load a causal language model.

    Args:
        path: a folder, or the id of a repository on the hub.
        dtype: of the parameters: "float32", "bfloat16" or "float16".
        trainable: False freezes the parameters and sets evaluation mode.
    Raises:
        ValueError: weights are missing, corrupt, or do not match the configuration.
    """
    config = load_config(path)
    # transformers reports in many lines what is checked below.
    with _reading_weights("load_model", path), _without_warnings():
        model, info = Qwen3ForCausalLM.from_pretrained(
            path, config=config, dtype=DTYPES[dtype], attn_implementation="sdpa", output_loading_info=True
        )
    problems = [
        f"{kind}: {', '.join(sorted(map(str, info[kind]))[:3])}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")
        if info.get(kind)
    ]
    if problems:
        raise ValueError(
            f"load_model: the weights at {path!r} do not match its config.json ({'; '.join(problems)}). "
            "Copy or download the checkpoint again, or correct config.json."
        )
    # torch gives the padding row no gradient, and the padding token may also be end-of-text.
    model.get_input_embeddings().padding_idx = None
    model.requires_grad_(trainable)
    return model.train(trainable)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Hide transformers' progress bars, which tear the line of an outer bar."""
    enabled = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()


@contextmanager
def _without_warnings() -> Iterator[None]:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def _reading_weights(function: str, path: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of safetensors, the file system, or the index
        raise ValueError(
            f"{function}: the weights at {path!r} cannot be read ({first_line(error)}). Copy or download the "
            "checkpoint again; it needs model.safetensors that matches config.json."
        ) from error

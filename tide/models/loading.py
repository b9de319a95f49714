"""Models and tokenizers from a folder or the hub, with checks that run before any weight is read.

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
from transformers import AutoTokenizer, PretrainedConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SUPPORTED_MODEL_TYPES = ("qwen3", "a2d-qwen3")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def load_config(path: str) -> PretrainedConfig:
    """Read a model's configuration without its weights.

    Raises:
        ValueError: no readable config.json at `path`, or an unsupported architecture.
    """
    with _reading("load_config", "config.json", path, "saved by save_pretrained"):
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


def load_tokenizer(path: str, *, needs_mask: bool = True) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer with a mask token.

    Args:
        path: a folder, or the id of a repository on the hub.
        needs_mask: False accepts a tokenizer without a mask token, as autoregressive models have.
    Raises:
        ValueError: no readable tokenizer at `path`, a slow one, or no mask token apart from eos, pad and bos.
    """
    with _reading("load_tokenizer", "tokenizer", path, "with tokenizer.json"):
        folder = Path(path)
        if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
            # transformers would make an empty tokenizer of the model's type.
            raise FileNotFoundError("no such file")
        tokenizer = AutoTokenizer.from_pretrained(path)
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"load_tokenizer: {path!r} holds a slow tokenizer ({type(tokenizer).__name__}); alignment needs "
            "a fast one. Load it with use_fast=True and save it with tokenizer.save_pretrained."
        )
    if not needs_mask:
        return tokenizer
    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"load_tokenizer: the tokenizer at {path!r} has no mask token, which diffusion needs. "
            f"Give it one: {mask_remedy(tokenizer)}."
        )
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    same = [role for role, token_id in ids.items() if token_id == tokenizer.mask_token_id]
    if same:
        raise ValueError(
            f"load_tokenizer: the tokenizer at {path!r} has one token ({tokenizer.mask_token}) as mask and "
            f"{' and '.join(same)}. Give the mask a token of its own."
        )
    return tokenizer


def mask_remedy(tokenizer: PreTrainedTokenizerFast, num_embeddings: int | None = None) -> str:
    """How to give a tokenizer a mask token below ``num_embeddings``, as part of a sentence."""
    taken = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.mask_token}
    candidates = [
        token
        for token, token_id in sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
        if "mask" in token.casefold() and token not in taken
        if num_embeddings is None or token_id < num_embeddings
    ]
    existing = "name an unused token of the vocabulary (tokenizer.mask_token = ...)"
    if candidates:
        existing = f"name the one that looks like it (tokenizer.mask_token = {candidates[0]!r})"
    return (
        f"{existing} and save the tokenizer; or add one "
        '(tokenizer.add_special_tokens({"mask_token": "<|mask|>"})), call '
        "model.resize_token_embeddings(len(tokenizer)) if the model has fewer embeddings, and save both"
    )


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
            f"{function}: the weights at {path!r} cannot be read ({_first_line(error)}). Copy or download "
            "the checkpoint again; it needs model.safetensors that matches config.json."
        ) from error


@contextmanager
def _reading(function: str, file: str, path: str, remedy: str) -> Iterator[None]:
    """Read ``file`` at ``path`` inside the block; any error becomes a ValueError of one line.

    A mistyped folder is refused first: transformers would look for it on the hub, with retries.
    """
    first, *rest = path.split("/")
    is_hub_id = not path.startswith((".", "~")) and first != "" and len(rest) <= 1
    is_hub_id &= not (rest and Path(first).is_dir())
    if not is_hub_id and not Path(path).is_dir():
        raise ValueError(
            f"{function}: no folder {path!r} here. Give a folder saved by save_pretrained (relative to the "
            "current directory; ~ is not expanded), or the id of a repository on the hub."
        )
    try:
        yield
    except Exception as error:  # OSError, ValueError, KeyError, or an error of JSON or Rust, by cause
        missing = "" if Path(path).is_dir() else f"no folder {path!r} here; "
        raise ValueError(
            f"{function}: {missing}no readable {file} at {path!r} ({_first_line(error)}). Give a folder "
            f"{remedy}, or the id of a repository on the hub."
        ) from error


def _first_line(error: BaseException) -> str:
    """The first line of an error's message, cut to 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

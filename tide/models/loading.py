"""Tokenizers and models from disk or a hub id, with the checks that distillation needs made before weights
are read.

Supported architecture: Qwen3, as transformers ships it, made bidirectional by the mask it is given.
Checkpoints of type `a2d-qwen3` (Qwen3 weights converted to block diffusion) have the same parameters and load
as Qwen3.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import transformers
from safetensors import safe_open
from transformers import (
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

SUPPORTED_MODEL_TYPES = ("qwen3", "a2d-qwen3")
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_tokenizer(path: str, *, needs_mask: bool = True) -> PreTrainedTokenizerFast:
    """A fast tokenizer with a mask token.

    Args:
        path: a folder, or the id of a repository on the hub.
        needs_mask: False takes one without, as autoregressive models have, where nothing is to be masked.
    Raises:
        ValueError: nothing loadable at `path`, a slow tokenizer, no mask token, or one that is also eos, pad
            or bos.
    """
    _check_place("load_tokenizer", path)
    try:
        folder = Path(path)
        if folder.is_dir() and not any((folder / name).is_file() for name in _TOKENIZER_FILES):
            # Without them transformers makes an empty tokenizer of the model's type.
            raise FileNotFoundError("no such file")
        tokenizer = _from_pretrained(path)
    # transformers raises OSError, ValueError, KeyError, or a JSON or Rust error by cause.
    except Exception as error:
        raise ValueError(
            f"load_tokenizer: {_not_here(path)}no readable tokenizer at {path!r} ({_first_line(error)}). "
            "Give a folder with tokenizer.json, or the id of a repository on the hub."
        ) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"load_tokenizer: {path!r} holds a slow tokenizer ({type(tokenizer).__name__}); alignment "
            "needs a fast one. "
            "Convert it with tokenizer.save_pretrained after loading with use_fast=True."
        )
    if not needs_mask:
        return tokenizer
    if tokenizer.mask_token_id is None:
        raise ValueError(
            f"load_tokenizer: the tokenizer at {path!r} has no mask token, which diffusion needs. "
            f"Give it one: {mask_remedy(tokenizer)}."
        )
    others = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token_id}
    same = [name for name, token_id in others.items() if token_id == tokenizer.mask_token_id]
    if same:
        raise ValueError(
            f"load_tokenizer: the tokenizer at {path!r} has one token ({tokenizer.mask_token}) as mask and "
            f"{' and '.join(same)}. Give the mask a token of its own."
        )
    return tokenizer


def mask_remedy(tokenizer: PreTrainedTokenizerFast, num_embeddings: int | None = None) -> str:
    """How a tokenizer gets a mask token that its model has an embedding for, as a part of a sentence.

    Args:
        tokenizer: without a mask token, or with one past the embeddings.
        num_embeddings: of the model, where it is known: a token that is there has to have one.
    """
    taken = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.mask_token}
    like_masks = [
        token
        for token, token_id in sorted(tokenizer.get_added_vocab().items(), key=lambda item: item[1])
        if "mask" in token.casefold() and token not in taken
        if num_embeddings is None or token_id < num_embeddings
    ]
    there = "name a token of the vocabulary that is not used (tokenizer.mask_token = ...)"
    if like_masks:
        there = f"name the one that looks like it (tokenizer.mask_token = {like_masks[0]!r})"
    return (
        f"{there} and save the tokenizer; or add one "
        '(tokenizer.add_special_tokens({"mask_token": "<|mask|>"})), call '
        "model.resize_token_embeddings(len(tokenizer)) if the model has fewer embeddings, and save both"
    )


def _from_pretrained(path: str) -> PreTrainedTokenizerFast:
    try:
        return AutoTokenizer.from_pretrained(path)
    except ValueError as error:
        if "TokenizersBackend" not in str(error):
            raise
        # transformers 5 writes this name for a plain fast tokenizer, and 4 does not know it.
        return PreTrainedTokenizerFast.from_pretrained(path)


def load_config(path: str) -> PretrainedConfig:
    """The model's configuration, read without its weights.

    Raises:
        ValueError: no readable config.json at `path`, or an architecture that is not supported.
    """
    _check_place("load_config", path)
    try:
        values, _ = PretrainedConfig.get_config_dict(path)
        if not values:  # What transformers makes of a folder without the file.
            raise FileNotFoundError("no such file")
    except Exception as error:
        raise ValueError(
            f"load_config: {_not_here(path)}no readable config.json at {path!r} ({_first_line(error)}). "
            "Give a folder saved by save_pretrained, or the id of a repository on the hub."
        ) from error
    model_type = values.get("model_type")
    if model_type not in SUPPORTED_MODEL_TYPES:
        raise ValueError(
            f"load_config: {path!r} has model_type {model_type!r}; supported are "
            f"{', '.join(SUPPORTED_MODEL_TYPES)}. Other architectures need an adapter that runs them under a "
            "block-diffusion mask."
        )
    values = {
        key: value for key, value in values.items() if key not in ("model_type", "auto_map", "architectures")
    }
    rope = values.get("rope_parameters")
    if rope is not None and int(transformers.__version__.split(".")[0]) < 5:
        # transformers 5 writes them together, and 4 would fall back to its default without a word.
        if rope.get("rope_type", "default") != "default":
            raise ValueError(
                f"load_config: {path!r} scales its positions ({rope['rope_type']!r}) in the form of "
                "transformers 5, which the installed version 4 cannot read. Install transformers 5."
            )
        values["rope_theta"] = rope["rope_theta"]
    return Qwen3Config.from_dict(values)


def check_weights(path: str) -> None:
    """Reads the headers of a folder's safetensors files, which show a file that is missing, cut or corrupt.

    Costs no memory. A name on the hub is not looked up.

    Raises:
        ValueError: as said.
    """
    folder = Path(path)
    if not folder.is_dir() or any(folder.glob("pytorch_model*.bin*")):
        return
    try:
        names, index = ["model.safetensors"], folder / "model.safetensors.index.json"
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        for name in names:
            with safe_open(folder / name, framework="pt"):
                pass
    except Exception as error:  # Of safetensors, of the file system, or of the index.
        raise _unreadable_weights("check_weights", path, error) from error


def load_model(path: str, *, dtype: str = "float32", trainable: bool) -> PreTrainedModel:
    """A causal language model; frozen and in evaluation mode unless `trainable`.

    Args:
        path: folder or hub id.
        dtype: "float32", "bfloat16" or "float16"; of the parameters.
        trainable: whether parameters require gradients.
    Raises:
        ValueError: weights are missing, corrupt, or do not fit the configuration.
    """
    config = load_config(path)
    try:
        with _without_warnings():  # The checks below say what transformers' report would, in one line.
            model, info = Qwen3ForCausalLM.from_pretrained(
                path, config=config, dtype=DTYPES[dtype], attn_implementation="sdpa", output_loading_info=True
            )
    except Exception as error:
        raise _unreadable_weights("load_model", path, error) from error
    problems = [
        f"{kind}: {', '.join(sorted(map(str, info[kind]))[:3])}"
        for kind in _LOADING_PROBLEMS
        if info.get(kind)
    ]
    if problems:
        raise ValueError(
            f"load_model: the weights at {path!r} do not match its config.json ({'; '.join(problems)}). "
            "Copy or download the checkpoint again, or correct config.json."
        )
    # Padding is never read, and where the padding token is also end-of-text its embedding has to train.
    model.get_input_embeddings().padding_idx = None
    model.requires_grad_(trainable)
    return model.train() if trainable else model.eval()


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No bars of transformers for reading and writing weights: inside another bar they tear the line."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextmanager
def _without_warnings() -> Iterator[None]:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


_LOADING_PROBLEMS = ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs")


def _unreadable_weights(function: str, path: str, error: Exception) -> ValueError:
    return ValueError(
        f"{function}: the weights at {path!r} cannot be read ({_first_line(error)}). "
        "Copy or download the checkpoint again; it needs model.safetensors that matches config.json."
    )


def _check_place(function: str, path: str) -> None:
    """Refuses what is neither a folder nor a name on the hub, which would be asked for it, with retries."""
    first, *rest = path.split("/")
    is_hub_id = not path.startswith((".", "~")) and first != "" and len(rest) <= 1
    if rest and Path(first).is_dir():
        is_hub_id = False  # A mistyped path under a folder that is here.
    if not is_hub_id and not Path(path).is_dir():
        raise ValueError(
            f"{function}: no folder {path!r} here. Give a folder saved by save_pretrained (relative to the "
            "current directory; ~ is not expanded), or the id of a repository on the hub."
        )


def _not_here(path: str) -> str:
    return "" if Path(path).is_dir() else f"no folder {path!r} here; "


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

"""Models from a folder, a GGUF file or the hub, with checks that run before any weight is read."""

from __future__ import annotations

import json
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from transformers import BitsAndBytesConfig, PretrainedConfig
from transformers.utils import logging as transformers_logging

from tide.models.forward import check_head
from tide.models.hosts import host_class, host_config
from tide.models.paths import first_line, is_gguf, location, reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTIZATIONS = ("4bit", "8bit")


def load_config(path: str) -> PretrainedConfig:
    """Read a model's configuration without its weights. Code that config.json names is never run.

    Args:
        path: a folder, a GGUF file, or the id of a repository on the hub.
    Raises:
        ValueError: no readable config.json at `path`, or an unsupported architecture.
    """
    with reading("load_config", "config.json", path, "saved by save_pretrained"):
        if is_gguf(path):
            values = deepcopy(_gguf_values(path, Path(path).stat().st_mtime_ns))
        else:
            values, _ = PretrainedConfig.get_config_dict(path)
        if not values:  # transformers reads a folder without the file as an empty configuration
            raise FileNotFoundError("no such file")
    try:
        return host_config(values)
    except Exception as error:  # ours, or of the configuration's types
        reason = " ".join(str(error).split())
        raise ValueError(f"load_config: {path!r} cannot be loaded: {reason}.") from error


@lru_cache(maxsize=4)
def _gguf_values(path: str, modified_ns: int) -> dict[str, Any]:
    # transformers decodes every token to find the configuration: half a minute for 262,144.
    where, options = location(path)
    return PretrainedConfig.get_config_dict(where, **options)[0]  # type: ignore[no-any-return]


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


def load_model(
    path: str,
    *,
    dtype: str = "float32",
    trainable: bool,
    quantization: str | None = None,
    device: str | None = None,
) -> PreTrainedModel:
    """Load a causal language model, which saves the weight names that it was read from.

    Args:
        path: a folder, a GGUF file, which is dequantized, or the id of a repository on the hub.
        dtype: of the parameters: "float32", "bfloat16" or "float16".
        trainable: False freezes the parameters and sets evaluation mode.
        quantization: "4bit" or "8bit" quantizes the linear layers by bitsandbytes (extra `quantization`).
        device: where to load it ("cuda:0"); the CPU by default.
    Raises:
        ValueError: weights are missing, corrupt, or do not match the configuration; a head that computes more
            than `tide.batch.Head`; quantization of a trainable model, or without bitsandbytes.
    """
    config, quantized = load_config(path), _quantization_config(quantization, dtype, trainable)
    where, options = location(path)
    # transformers reports in many lines what is checked below.
    with _reading_weights("load_model", path), _without_warnings():
        model, info = host_class(config).from_pretrained(
            where,
            config=config,
            dtype=DTYPES[dtype],
            attn_implementation="sdpa",
            device_map=device,
            quantization_config=quantized,
            trust_remote_code=False,
            output_loading_info=True,
            **options,
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
    if is_gguf(path):
        _forget_quantization(model)
    check_head(model)
    # torch gives the padding row no gradient, and the padding token may also be end-of-text.
    model.get_input_embeddings().padding_idx = None
    model.requires_grad_(trainable)
    return model.train(trainable)


def _quantization_config(quantization: str | None, dtype: str, trainable: bool) -> BitsAndBytesConfig | None:
    if quantization is None:
        return None
    if quantization not in QUANTIZATIONS or trainable:
        raise ValueError(
            f"load_model: quantization must be one of {', '.join(QUANTIZATIONS)}, of a model that is not "
            f"trained; got {quantization!r}, trainable={trainable}. Leave it out for a student."
        )
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"load_model: quantization {quantization!r} needs bitsandbytes, which is not installed. "
            "Install tide-distill[quantization]."
        )
    return BitsAndBytesConfig(
        **{f"load_in_{quantization}": True},
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=DTYPES[dtype],
    )


def _forget_quantization(model: PreTrainedModel) -> None:
    """Make a dequantized model a plain one: transformers counts it as quantized, and would not save it."""
    model.hf_quantizer.remove_quantization_config(model)


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
            f"{function}: the weights at {path!r} cannot be read ({first_line(error)}). Copy or download "
            "the checkpoint again; it needs model.safetensors that matches config.json."
        ) from error

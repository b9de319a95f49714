"""A student in the files of other programs: SDAR for serving engines, a2d-qwen3 and a2d-llama for dllm."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from tide.models.catalog import FAMILIES
from tide.models.contracts import contract_of, record_contract
from tide.models.hosts import host_class, host_config
from tide.models.loading import load_config, load_model
from tide.models.paths import new_folder
from tide.models.tokenizers import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

    from tide.contract import Contract

FORMATS = ("sdar", "a2d-qwen3", "a2d-llama")
CONFIGURATION = Path(__file__).with_name("configuration_sdar.py")
SGLANG_FILE = "sglang.yaml"

# What readers of some format compute, whatever config.json says.
_ASSUMED = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False}


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        num_parameters: of the written weights; a head that is no longer tied counts.
        warnings: what the programs that read the format would get wrong about this student.
    """

    contract: Contract
    mask_token: str
    num_parameters: int
    warnings: tuple[str, ...]


def export_model(
    path: str,
    output: str,
    *,
    format: str,
    dtype: str = "bfloat16",
    block_size: int | None = None,
) -> Export:
    """Write a student in another program's format, with its tokenizer.

    "sdar" is what SGLang and LMDeploy serve: the head is not tied, and the class of `configuration_sdar.py`
    reads config.json. "a2d-qwen3" and "a2d-llama" are what dllm loads. Weight names stay. "a2d-llama" holds
    Llama's network, the others Qwen3's.

    Args:
        path: folder or hub id of the student.
        output: the folder to write; new or empty.
        format: "sdar", "a2d-qwen3" or "a2d-llama".
        dtype: of the weights: "float32", "bfloat16" or "float16".
        block_size: that the student was trained at, where its config.json records none.
    Raises:
        ValueError: `output` holds files, an unknown format, a network other than the format's, or a contract
            other than block diffusion.
        OSError: `output` cannot be written; nothing is left there.
    """
    if format not in FORMATS:
        raise ValueError(f"export: format must be one of {', '.join(FORMATS)}; got {format!r}.")
    with new_folder("export", output) as folder:
        config = load_config(path)
        _check_network(path, config, format)
        tokenizer = load_tokenizer(path, config=config)
        contract = _contract(config, tokenizer, block_size)
        student = load_model(path, dtype=dtype, trainable=False)
        exported = _under_names_of(format, student, contract)
        exported.generation_config.eos_token_id = _end_ids(student, tokenizer)
        exported.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        _finish_files(folder, format, contract)
    return Export(
        contract, tokenizer.mask_token, exported.num_parameters(), _warnings(format, contract, tokenizer)
    )


def _check_network(path: str, config: PretrainedConfig, format: str) -> None:
    host = getattr(transformers, FAMILIES[format].host or "")
    if not issubclass(host_class(config), host):
        raise ValueError(
            f"export: {path!r} is a {config.model_type} model, and {format} holds the network of "
            f"{host.__name__} alone. Choose another of {', '.join(FORMATS)}, or a student made from it."
        )
    actual = {key: getattr(config, key, only) for key, only in _ASSUMED.items()} | {
        "rope_type": config.rope_parameters["rope_type"]
    }
    for key, only in {**_ASSUMED, "rope_type": "default"}.items():
        if actual[key] != only:
            raise ValueError(
                f"export: {path!r} has {key} {actual[key]!r}, and the programs that read the format compute "
                f"{only!r}. Use the student here, or train one without."
            )


def _contract(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, block_size: int | None
) -> Contract:
    given = {} if block_size is None else {"block_size": block_size}
    contract = contract_of(config, tokenizer, values=given)
    if not contract.block_diffusion:
        raise ValueError(
            f"export: the formats stand for block diffusion with bidirectional blocks; got {contract}. "
            "Export a student that was trained so."
        )
    return contract


def _under_names_of(format: str, student: PreTrainedModel, contract: Contract) -> PreTrainedModel:
    """The student's weights in the class of another family with the same weight names."""
    names = {"model_type": format, "architectures": list(FAMILIES[format].architectures[:1])}
    tied = {"tie_word_embeddings": False} if format == "sdar" else {}
    config = host_config({**student.config.to_dict(), **names, **tied})
    record_contract(config, contract)
    weights = student.state_dict()
    if not config.tie_word_embeddings:
        # SGLang's SDAR loader fails on a tied head: the file has to hold a head of its own.
        weights["lm_head.weight"] = weights["lm_head.weight"].clone()
    with torch.device("meta"):
        exported = host_class(config)(config)
    exported.load_state_dict(weights, assign=True)
    exported.tie_weights()
    exported.generation_config = student.generation_config
    return exported


def _end_ids(student: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids that end an answer: the tokenizer's, the student's and Qwen3's."""
    own = student.generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    vocabulary = tokenizer.get_vocab()
    ids += [vocabulary.get(token) for token in FAMILIES["sdar"].stops]
    return [token_id for token_id in dict.fromkeys(ids) if token_id is not None]


def _finish_files(folder: Path, format: str, contract: Contract) -> None:
    """Make files that versions 4 and 5 of transformers read, and add what engines need beside them."""
    with _editing(folder / "config.json") as values:
        del values["rope_parameters"]
        values["rope_scaling"] = None
        if format == "sdar":
            values["auto_map"] = {"AutoConfig": f"{CONFIGURATION.stem}.SDARConfig"}
    with _editing(folder / "tokenizer_config.json") as values:
        if values["tokenizer_class"] == "TokenizersBackend":
            values["tokenizer_class"] = "PreTrainedTokenizerFast"
        if isinstance(special := values.pop("extra_special_tokens", None), list):
            values["additional_special_tokens"] = special
    if format == "sdar":
        shutil.copyfile(CONFIGURATION, folder / CONFIGURATION.name)
        (folder / SGLANG_FILE).write_text(f"block_size: {contract.block_size}\n", encoding="utf-8")


@contextmanager
def _editing(file: Path) -> Iterator[dict[str, Any]]:
    values = json.loads(file.read_text(encoding="utf-8"))
    yield values
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _warnings(format: str, contract: Contract, tokenizer: PreTrainedTokenizerFast) -> tuple[str, ...]:
    family = FAMILIES[format]
    if format == "sdar" and contract.mask_id != family.contract["mask_id"]:
        return (
            f"SGLang and LMDeploy mask with id {family.contract['mask_id']}, whatever config.json says; the "
            f"student's is {contract.mask_id}",
        )
    if format != "sdar" and tokenizer.mask_token != family.mask_token:
        return (f"dllm masks with {family.mask_token}; the student's mask token is {tokenizer.mask_token}",)
    return ()

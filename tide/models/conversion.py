"""An autoregressive checkpoint as the start of a block-diffusion student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tide.contract import Contract
from tide.models.catalog import FAMILIES
from tide.models.contracts import contract_of, record_contract
from tide.models.hosts import family_of
from tide.models.loading import DTYPES, load_config, load_model
from tide.models.paths import new_folder
from tide.models.tokenizers import load_tokenizer, mask_like_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

MASK_TOKEN = "<|mask|>"  # of a tokenizer that has none


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Attributes:
        num_parameters: of the converted model; a tied head counts once.
        added_rows: embeddings that the mask token needed.
    """

    contract: Contract
    mask_token: str
    num_parameters: int
    added_rows: int


def convert_model(
    path: str,
    output: str,
    *,
    block_size: int = 32,
    mask_token: str | None = None,
    dtype: str | None = None,
) -> Conversion:
    """Write an autoregressive model as a block-diffusion one, which is yet to be trained.

    The weights stay as they are; config.json records mask id and block size. The mask token is the
    tokenizer's own, or an added token that looks like one, or a new `<|mask|>`. If its id has no embedding,
    embeddings and head grow up to it; each new row is the mean of the others.

    Args:
        path: a folder, a GGUF file, or the id of a repository on the hub.
        output: the folder to write; new or empty.
        block_size: tokens per block.
        mask_token: text of the mask token; added if the vocabulary lacks it.
        dtype: of the weights: "float32", "bfloat16" or "float16"; by default that of config.json, or float32.
    Raises:
        ValueError: `output` holds files, the model is a diffusion model or of another family, or the mask
            token has another role.
        OSError: `output` cannot be written; nothing is left there.
    """
    with new_folder("convert", output) as folder:
        config = load_config(path)
        _check_convertible(path, config)
        tokenizer = load_tokenizer(path, needs_mask=False)
        _name_mask_token(tokenizer, mask_token)
        contract = Contract(tokenizer.mask_token_id, block_size)
        stored = str(config.dtype).removeprefix("torch.")
        model = load_model(path, dtype=dtype or (stored if stored in DTYPES else "float32"), trainable=False)
        added_rows = _grow_embeddings(model, tokenizer.mask_token_id + 1)
        record_contract(model.config, contract)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Conversion(contract, tokenizer.mask_token, model.num_parameters(), added_rows)


def _check_convertible(path: str, config: PretrainedConfig) -> None:
    plain = FAMILIES["autoregressive"]
    if family_of(config) is plain and config.model_type not in plain.model_types:
        raise ValueError(
            f"convert: {path!r} is a {config.model_type} model; {', '.join(plain.model_types)} models can be "
            "converted. Take one of these; this one can be a teacher."
        )
    if family_of(config) is not plain or not contract_of(config).autoregressive:
        raise ValueError(
            f"convert: {path!r} is a diffusion model already ({config.model_type}). Train it as it is."
        )


def _name_mask_token(tokenizer: PreTrainedTokenizerFast, text: str | None) -> None:
    """Give the tokenizer the mask token `text`, or else choose one."""
    roles = {role: getattr(tokenizer, f"{role}_token") for role in ("bos", "eos", "pad", "unk")}
    own = tokenizer.mask_token
    if text is None and (own is None or own in roles.values()):
        text = next(iter(mask_like_tokens(tokenizer)), MASK_TOKEN)
    text = own if text is None else text
    same = [role for role, token in roles.items() if token == text]
    if same or not text:
        what = f"is also {' and '.join(same)}" if text else "is empty"
        raise ValueError(
            f"convert: the mask token needs a text of its own; got {text!r}, which {what}. Give another with "
            "--mask-token."
        )
    tokenizer.add_special_tokens({"mask_token": text})


def _grow_embeddings(model: PreTrainedModel, num_rows: int) -> int:
    """Grow embeddings and head to `num_rows` by the mean of their rows; return how many that takes."""
    present: int = model.get_input_embeddings().num_embeddings
    if num_rows <= present:
        return 0
    # transformers would draw the rows at random.
    model.resize_token_embeddings(num_rows, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[present:] = layer.weight[:present].mean(0, dtype=torch.float32)
    return num_rows - present

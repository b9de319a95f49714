"""tide convert MODEL OUTPUT: an autoregressive checkpoint as the start of a block-diffusion student."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import TYPE_CHECKING

from tide.cli.subparsers import add_dtype, length

if TYPE_CHECKING:
    from tide.cli.subparsers import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "convert",
        help="make a block-diffusion student of an autoregressive model",
        description="Write an autoregressive model with a mask token, and with mask id and block size in its "
        "config.json. Its weights stay as they are: train it with `tide distill`.",
    )
    parser.add_argument(
        "model", metavar="MODEL", type=expanduser, help="folder, GGUF file or hub id of the model"
    )
    parser.add_argument("output", metavar="OUTPUT", type=expanduser, help="folder to write, new or empty")
    parser.add_argument(
        "--block-size", type=length, default=32, metavar="N", help="tokens per block (default: %(default)s)"
    )
    parser.add_argument(
        "--mask-token",
        metavar="TEXT",
        help="text of the mask token (default: the tokenizer's, one that looks like it, or a new <|mask|>)",
    )
    add_dtype(parser, default=None, meaning="the model's")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from tide.models import convert_model

    done = convert_model(
        arguments.model,
        arguments.output,
        block_size=arguments.block_size,
        mask_token=arguments.mask_token,
        dtype=arguments.dtype,
    )
    rows = "no row" if not done.added_rows else f"{done.added_rows} row{'s' if done.added_rows > 1 else ''}"
    print(f"{arguments.output}: {done.num_parameters:,} parameters")
    print(f"  mask token {done.mask_token}, id {done.contract.mask_id}, {rows} added to the embeddings")
    print(f"  block size {done.contract.block_size}")
    return 0

"""tide sample CHECKPOINT PROMPT ...: complete prompts with a block-diffusion model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tide.cli.subparsers import count

if TYPE_CHECKING:
    from tide.cli.subparsers import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sample",
        help="complete prompts with a block-diffusion model",
        description="Complete each prompt, block by block, greedily in the order of confidence.",
    )
    parser.add_argument("checkpoint", help="folder or hub id of a block-diffusion model with its tokenizer")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help=r"text; \n stands for a line break")
    parser.add_argument("--max-new-tokens", type=count, default=128, help="default: %(default)s")
    parser.add_argument(
        "--block-size",
        type=count,
        help="as in training (default: that of the checkpoint's config.json)",
    )
    parser.add_argument(
        "--steps-per-block", type=count, help="denoising steps per block (default: one token a step)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from tide.models import contract_of, load_config, load_model, load_tokenizer
    from tide.sampling import generate

    config, tokenizer = load_config(arguments.checkpoint), load_tokenizer(arguments.checkpoint)
    given = {} if arguments.block_size is None else {"block_size": arguments.block_size}
    contract = contract_of(config, tokenizer, values=given)
    if contract.block_size is None or not contract.block_diffusion:
        raise ValueError(
            f"tide sample: decodes block by block, each of them bidirectional; {arguments.checkpoint!r} is a "
            f"{config.model_type} model, which reads a text otherwise. Give a block-diffusion student."
        )
    model = load_model(arguments.checkpoint, trainable=False)
    prompts = [prompt.replace("\\n", "\n") for prompt in arguments.prompts]
    completions = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=arguments.max_new_tokens,
        block_size=contract.block_size,
        steps_per_block=arguments.steps_per_block,
    )
    print("\n\n".join(prompt + completion for prompt, completion in zip(prompts, completions, strict=True)))
    return 0

"""tide sample CHECKPOINT PROMPT ...: complete prompts with a block-diffusion model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tide.cli.subparsers import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "sample",
        help="complete prompts with a block-diffusion model",
        description="Complete each prompt, block by block, greedily in the order of confidence.",
    )
    parser.add_argument("checkpoint", help="folder or hub id of a block-diffusion model with its tokenizer")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help=r"text; \n stands for a line break")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--block-size", type=int, default=32, help="as in training (default: %(default)s)")
    parser.add_argument(
        "--steps-per-block", type=int, help="denoising steps per block (default: one token a step)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from tide.models import load_model, load_tokenizer
    from tide.sampling import generate

    tokenizer = load_tokenizer(arguments.checkpoint)
    model = load_model(arguments.checkpoint, trainable=False)
    prompts = [prompt.replace("\\n", "\n") for prompt in arguments.prompts]
    completions = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=arguments.max_new_tokens,
        block_size=arguments.block_size,
        steps_per_block=arguments.steps_per_block,
    )
    print("\n\n".join(prompt + completion for prompt, completion in zip(prompts, completions, strict=True)))
    return 0

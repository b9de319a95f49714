"""tide sample CHECKPOINT PROMPT ...: complete prompts with a block-diffusion model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
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
        help="as in training (default: that of the checkpoint's recipe.yaml, or a recipe's default)",
    )
    parser.add_argument(
        "--steps-per-block", type=count, help="denoising steps per block (default: one token a step)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from tide.models import load_model, load_tokenizer
    from tide.sampling import generate

    tokenizer = load_tokenizer(arguments.checkpoint)
    block_size = arguments.block_size or _trained_block_size(arguments.checkpoint)
    model = load_model(arguments.checkpoint, trainable=False)
    prompts = [prompt.replace("\\n", "\n") for prompt in arguments.prompts]
    completions = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=arguments.max_new_tokens,
        block_size=block_size,
        steps_per_block=arguments.steps_per_block,
    )
    print("\n\n".join(prompt + completion for prompt, completion in zip(prompts, completions, strict=True)))
    return 0


def _trained_block_size(checkpoint: str) -> int:
    """The block size in the recipe that `tide distill` writes beside a student; logs it with its source."""
    from tide.config import MaskingConfig, RecipeError, load_recipe

    size, source = MaskingConfig().block_size, "as no recipe.yaml beside the checkpoint names one"
    folder = Path(checkpoint)
    # A student's recipe is in its folder, that of a `checkpoint-N` in the folder above.
    for path in (folder / "recipe.yaml", folder.absolute().parent / "recipe.yaml"):
        if folder.is_dir() and path.is_file():
            try:
                size, source = load_recipe(path).masking.block_size, f"from {path}"
            except RecipeError:  # another program's: the name is common
                continue
            break
    print(f"tide sample: block size {size}, {source}", file=sys.stderr, flush=True)
    return size

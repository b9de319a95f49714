"""Tokens that a TIDE-Shared step computes per example, beside the padded `[x_t | x_0]` of the published code.

    python -m benchmarks.layout_tokens [--length 512 --block-size 32 --batch-size 8 --batches 64]

Both models read in bidirectional blocks, and times are drawn as in training. Data: the quickstart's functions
in the Trainer's order, and texts of full length whose first half, or three quarters, are the prompt. The
published layout takes 2L tokens of the student and, for CompDemo, 4L of the teacher, L being the longest text
of the batch in whole blocks.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from examples.quickstart.corpus import split_functions, write_rows
from tide.batch import Example, TokenSequence
from tide.config import MaskingConfig, load_recipe
from tide.contract import Contract
from tide.data import Collator, LengthBuckets
from tide.layouts import batch_layouts
from tide.masking import Noiser, keyed_generator
from tide.methods import METHODS
from tide.preparation import load_tokenizers, training_data

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tide.data import ShardedExamples

RECIPE = "recipes/quickstart_same.yaml"
METHOD = METHODS["tide_shared"]


def tokens_per_example(
    examples: Sequence[Example] | ShardedExamples, block_size: int, batch_size: int, num_batches: int
) -> dict[str, tuple[float, float, float]]:
    """By side: tokens, tokens with the grid's padding, and those of the published layout.

    Of the first batches in the Trainer's order; both contracts have the block size.
    """
    contract = Contract(mask_id=0, block_size=block_size)
    noiser = Noiser(MaskingConfig(block_size=block_size), METHOD, contract, contract)
    collator = Collator(student_pad_id=0, teacher_pad_id=0, pad_to_multiple_of=block_size)
    lengths = [len(example.student.token_ids) for example in examples]
    order = LengthBuckets(lengths, batch_size=batch_size, seed=0)
    chosen = list(islice(order, batch_size * num_batches))
    sums = {side: torch.zeros(3) for side in ("student", "teacher")}
    for step in range(0, len(chosen), batch_size):
        batch = collator([examples[index] for index in chosen[step : step + batch_size]])
        layouts = batch_layouts(noiser(batch, keyed_generator(0, step)), contract, contract)
        published = batch.student.token_ids.numel()
        for side, layout, copies in (("student", layouts.student, 2), ("teacher", layouts.teacher, 4)):
            assert layout is not None
            used, grid = int((layout.text >= 0).sum()), layout.text.numel()
            sums[side] += torch.tensor([used, grid, copies * published])
    return {side: tuple((total / len(chosen)).tolist()) for side, total in sums.items()}


def quickstart_examples(length: int, block_size: int) -> Sequence[Example] | ShardedExamples:
    """The quickstart's training functions, cut to `length` tokens."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "train.jsonl"
        write_rows(split_functions()[0], rows)
        changes = [f"data.train={rows}", "data.held_out=null", f"data.max_length={length}"]
        recipe = load_recipe(RECIPE, [*changes, f"masking.block_size={block_size}"])
        return training_data(recipe, load_tokenizers(recipe)).examples


def full_examples(length: int, prompt: float, count: int) -> list[Example]:
    """Texts of `length` tokens, of which the share `prompt` is never masked."""
    answer = torch.arange(length) >= prompt * length
    text = TokenSequence(torch.ones(length, dtype=torch.long), answer, torch.full((length,), -1))
    return [Example(text, text)] * count


def main(arguments: list[str] | None = None) -> None:
    """Count and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=64)
    options = parser.parse_args(arguments)
    count = options.batch_size * options.batches
    data = {
        "quickstart": quickstart_examples(options.length, options.block_size),
        "prompt one half": full_examples(options.length, 0.5, count),
        "prompt three quarters": full_examples(options.length, 0.75, count),
    }
    print("| data | model | published | tokens | with padding | share |\n|---|---|--:|--:|--:|--:|")
    for name, examples in data.items():
        counted = tokens_per_example(examples, options.block_size, options.batch_size, options.batches)
        for side, (used, grid, published) in counted.items():
            print(
                f"| {name} | {side} | {published:,.0f} | {used:,.0f} | {grid:,.0f} | {grid / published:.0%} |"
            )


if __name__ == "__main__":
    main()

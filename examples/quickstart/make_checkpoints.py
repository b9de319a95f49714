"""Makes the checkpoints that the quickstart starts from: two tokenizers, a teacher, and two undistilled
students.

    python -m examples.quickstart.make_checkpoints

Everything is trained on the train split of the standard library's functions, as block-diffusion models, by
the same flow that users run (`tide.pipeline.distill` with method `none`). Interrupted runs resume. On two
cores with AMX (bf16 matrix units) this takes about an hour and a half; without them, pass `--precision fp32`
and a night.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

from examples.quickstart.corpus import split_functions, write_rows
from tide.config import Recipe
from tide.pipeline import distill

END, MASK = "<|endoftext|>", "<|mask|>"
# Words with their leading space; a run of punctuation; one digit at a time; line breaks with the
# indentation that follows.
SMALL_PATTERN = r"\s*\n[ \t]*|[^\S\n]?[\p{L}_]+|\p{N}|[^\S\n]?[^\s\p{L}\p{N}_]{1,2}|[^\S\n]+"
SIZES = {
    "teacher": {
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "head_dim": 64,
    },
    "student": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "head_dim": 32,
    },
    "student-small-vocab": {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 3,
        "head_dim": 32,
    },
}
VOCABULARY = {"teacher": 4096, "student": 4096, "student-small-vocab": 2048}
STEPS = {"teacher": 2000, "student": 1000, "student-small-vocab": 1000}
BATCH = {"teacher": 16, "student": 16, "student-small-vocab": 16}
LEARNING_RATE = {"teacher": 1e-3, "student": 2e-3, "student-small-vocab": 2e-3}


def train_tokenizer(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; the two sizes also cut text into words differently."""
    tokenizer = Tokenizer(models.BPE())
    if vocab_size >= 4096:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SMALL_PATTERN), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, mask_token=MASK, model_max_length=2048
    )


def write_untrained(folder: Path, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """A checkpoint with random weights."""
    set_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY[name],
        num_key_value_heads=SIZES[name]["num_attention_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.02,
        **SIZES[name],
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def training_recipe(
    start: Path, output_dir: Path, name: str, train: Path, arguments: argparse.Namespace
) -> Recipe:
    """Block diffusion without a teacher."""
    steps = arguments.steps or STEPS[name]
    return Recipe.from_dict(
        {
            "method": "none",
            "student": {"path": str(start)},
            "data": {"train": str(train), "max_length": 128},
            "masking": {"block_size": 16},
            "training": {
                "output_dir": str(output_dir),
                "max_steps": steps,
                "batch_size": BATCH[name],
                "learning_rate": LEARNING_RATE[name],
                "warmup_ratio": 0.05,
                "weight_decay": 0.1,
                "precision": arguments.precision,
                "logging_steps": 100,
                "save_steps": 300,
                "save_total_limit": 1,
            },
        }
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("examples/quickstart/checkpoints"))
    parser.add_argument("--work", type=Path, default=Path("runs/make_checkpoints"))
    parser.add_argument(
        "--only", choices=list(SIZES), action="append", help="make only this checkpoint; repeatable"
    )
    parser.add_argument("--steps", type=int, help="optimiser steps of each model instead of the usual ones")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    arguments = parser.parse_args()
    train_rows, _ = split_functions()
    train = arguments.work / "train.jsonl"
    write_rows(train_rows, train)
    texts = [row.prompt + row.completion for row in train_rows]
    for name in arguments.only or SIZES:
        start, trained = arguments.work / f"{name}-untrained", arguments.work / name
        if not start.exists():
            write_untrained(start, name, train_tokenizer(texts, VOCABULARY[name]))
        result = distill(training_recipe(start, trained, name, train, arguments), resume=True)
        if not result.finished:
            raise SystemExit(
                f"{name}: interrupted at step {result.steps}; run the same command again to go on."
            )
        export(trained, arguments.out / name)


def export(trained: Path, folder: Path) -> None:
    """The trained model in fp16, half the size, with its tokenizer."""
    shutil.rmtree(folder, ignore_errors=True)
    model = Qwen3ForCausalLM.from_pretrained(trained, dtype=torch.float16)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(trained).save_pretrained(folder)
    print(f"{folder}: {sum(parameter.numel() for parameter in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()

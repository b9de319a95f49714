"""How fast tokens are aligned, beside a two-pointer loop and beside tokenization.

    python -m benchmarks.alignment_speed [--tokens 400000] [--repeats 7]

Text is the source of the standard library: in one piece, in rows of 4,000 characters, and as chats of three
questions and answers of 400 characters each. The tokenizers are trained on some of it. Time to align is that
of both sides' spans and their chunks, once ids exist, as `tide prepare` does it: many rows in one pass.
Tokens per second count the tokens of both sides. All figures are medians of one run, in one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks._timing import Rounds, Step, alternate
from tide.alignment import ByteTable, ChunkAlignment, align_spans
from tide.data import Conversation, Message, Rejected
from tide.preparation import align_answers, read_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROW = 4000  # characters of a short text, some 1,000 tokens
TURN = 400  # characters of a message
SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def two_pointers(
    student: Sequence[int],
    teacher: Sequence[int],
    student_bytes: Sequence[bytes],
    teacher_bytes: Sequence[bytes],
) -> tuple[list[int], list[int], int]:
    """Chunk ids of two exact tokenizations of one text: the side that lags moves; a chunk ends where they
    meet."""
    student_chunks, teacher_chunks = [-1] * len(student), [-1] * len(teacher)
    i = j = first_i = first_j = chunk = 0
    left, right = b"", b""
    while i < len(student) or j < len(teacher):
        if len(left) <= len(right) and i < len(student):
            left += student_bytes[student[i]]
            i += 1
        elif j < len(teacher):
            right += teacher_bytes[teacher[j]]
            j += 1
        else:
            break
        if len(left) == len(right):
            if left != right:
                raise ValueError(f"texts differ in chunk {chunk}: {left!r}, {right!r}")
            student_chunks[first_i:i] = [chunk] * (i - first_i)
            teacher_chunks[first_j:j] = [chunk] * (j - first_j)
            chunk += 1
            first_i, first_j, left, right = i, j, b"", b""
    return student_chunks, teacher_chunks, chunk


def standard_library(num_bytes: int) -> str:
    """Python source, the modules in order of their names."""
    parts: list[str] = []
    size = 0
    for path in sorted(Path(statistics.__file__).parent.glob("*.py")):
        parts.append(path.read_text(encoding="utf-8"))
        size += len(parts[-1])
        if size > num_bytes:
            break
    text = "".join(parts)
    return (text * (1 + num_bytes // len(text)))[:num_bytes]


def trained(
    text: str, vocab_size: int, *, normalizer: Any = None, pre_tokenizer: Any = None, fallback: bool = False
) -> Tokenizer:
    """A BPE tokenizer, byte-level or with byte fallback."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=fallback))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=[] if fallback else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tokens", type=int, default=400_000, help="about so many tokens on both sides together"
    )
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args(arguments)

    sample = standard_library(600_000)
    print(
        "| tokenizers | text | tokens | tokenize, s | align, s | of tokenizing | tokens/s | loop, s | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, pair in tokenizer_pairs(sample).items():
        whole = standard_library(options.tokens * 2)
        rows = [whole[start : start + ROW] for start in range(0, len(whole), ROW)]
        for kind, texts in (("long", [whole]), ("rows", rows)):
            print(f"| {name} | {kind} | " + measured(pair, texts, options.repeats))
        print(f"| {name} | chats | " + measured_chats(pair, whole, options.repeats))
    return 0


def tokenizer_pairs(sample: str) -> dict[str, tuple[Tokenizer, Tokenizer]]:
    """Pairs whose tokens spell the text, spell it but for a prefix, and spell it otherwise."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    prefix = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    large = trained(sample, 12000, pre_tokenizer=split)
    return {
        "spell the text": (
            trained(sample, 4000, pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
            large,
        ),
        "NFC; prefix": (
            trained(sample, 4000, normalizer=normalizers.NFC(), pre_tokenizer=split),
            trained(sample, 12000, normalizer=prefix, fallback=True),
        ),
        "lower case, no whitespace; spells it": (
            trained(
                sample,
                4000,
                normalizer=normalizers.Lowercase(),
                pre_tokenizer=pre_tokenizers.BertPreTokenizer(),
                fallback=True,
            ),
            large,
        ),
    }


def measured(pair: tuple[Tokenizer, Tokenizer], texts: list[str], repeats: int) -> str:
    """Cells of a row of the table: texts aligned in one pass."""
    tables = [ByteTable.from_tokenizer(tokenizer) for tokenizer in pair]
    ids = [[np.array(tokenizer.encode(text).ids) for text in texts] for tokenizer in pair]
    lists = [[row.tolist() for row in rows] for rows in ids]
    borders = np.cumsum([0, *(len(text.encode()) for text in texts)])

    def tokenize() -> None:
        for tokenizer in pair:
            for text in texts:
                tokenizer.encode(text)

    def align() -> ChunkAlignment:
        spans = [table.spans_of(texts, rows) for table, rows in zip(tables, ids, strict=True)]
        return align_spans(*spans, borders=borders)

    def loop() -> list[tuple[list[int], list[int], int]]:
        both = zip(*lists, strict=True)
        return [two_pointers(one, other, tables[0].tokens, tables[1].tokens) for one, other in both]

    timed: dict[str, Callable[[], object]] = {"tokenize": tokenize, "align": align}
    if all(table.spells_text for table in tables):
        timed["loop"] = loop
        assert_same(align(), loop())
    return cells(timed, repeats, sum(len(row) for rows in ids for row in rows))


def assert_same(together: ChunkAlignment, alone: Sequence[tuple[list[int], list[int], int]]) -> None:
    """Chunks of texts in one pass are those of each text, counted on."""
    student: list[int] = []
    teacher: list[int] = []
    first = 0
    for one, other, num_chunks in alone:
        student += [chunk if chunk < 0 else first + chunk for chunk in one]
        teacher += [chunk if chunk < 0 else first + chunk for chunk in other]
        first += num_chunks
    assert (together.student_chunks.tolist(), together.teacher_chunks.tolist()) == (student, teacher)


def measured_chats(pair: tuple[Tokenizer, Tokenizer], text: str, repeats: int) -> str:
    """The same for conversations, whose answers are aligned."""
    student, teacher = map(chat_tokenizer, pair)
    tables = ByteTable.from_tokenizer(student), ByteTable.from_tokenizer(teacher)
    parts = [text[start : start + TURN] for start in range(0, len(text), TURN)]
    rows = [
        Conversation(tuple(map(Message, ("user", "assistant") * 3, parts[start : start + 6])))
        for start in range(0, len(parts) - 5, 6)
        if all(part.strip() for part in parts[start : start + 6])
    ]
    pairs = [pair for pair in read_pairs(rows, student, teacher, {}) if not isinstance(pair, Rejected)]
    rendered = [[side.rendered.text for side in sides] for sides in zip(*pairs, strict=True)]

    def tokenize() -> None:
        for tokenizer, of_side in zip((student, teacher), rendered, strict=True):
            for row in of_side:
                tokenizer.backend_tokenizer.encode(row, add_special_tokens=False)

    def align() -> object:
        return align_answers(pairs, tables)

    assert len(pairs) == len(rows) and not any(
        isinstance(row, Rejected) for row in align_answers(pairs, tables)
    )
    num_tokens = sum(len(side.tokens.token_ids) for sides in pairs for side in sides)
    return cells({"tokenize": tokenize, "align": align}, repeats, num_tokens)


def chat_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """With a chat template, and the special tokens of it."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_special_tokens({"eos_token": "<|end|>", "additional_special_tokens": ["<|turn|>"]})
    fast.chat_template = (
        "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    )
    return fast


def cells(timed: dict[str, Callable[[], object]], repeats: int, num_tokens: int) -> str:
    """Of a row of the table, from median seconds of alternating calls."""

    def step(run: Callable[[], object]) -> Step:
        return Step(lambda _: run())

    steps = {name: step(run) for name, run in timed.items()}
    times = alternate(steps, torch.device("cpu"), Rounds(0.0, repeats, repeats, 0))
    seconds = {name: statistics.median(of.seconds) for name, of in times.items()}
    tokenized, aligned = seconds["tokenize"], seconds["align"]
    looped = f"{seconds['loop']:.3f} | {seconds['loop'] / aligned:.1f}" if "loop" in seconds else "- | -"
    return (
        f"{num_tokens:,} | {tokenized:.3f} | {aligned:.4f} | {aligned / tokenized:.1%} "
        f"| {num_tokens / aligned / 1e6:.1f} M | {looped} |"
    )


if __name__ == "__main__":
    sys.exit(main())

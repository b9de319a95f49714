"""What a directory of shards is made of: sources, tokenizers by content, options, counts.

plan.json          what is to be made; written first, so that an interrupted preparation can go on
part-00000.arrow   examples of one stretch of the mixture; part-00000.json says what became of its rows
part-00000.rejects.jsonl   rows that were set aside, with the reason; only where there are some
manifest.json      the plan, all counts and every shard's hash; written last
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tide.data.shards import ShardedExamples

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transformers import PreTrainedTokenizerFast

FORMAT = 1  # of the shards; raised when examples mean something else
PLAN_FILE, MANIFEST_FILE = "plan.json", "manifest.json"


@dataclass(frozen=True)
class Plan:
    """Everything that the bytes of the shards follow from.

    Attributes:
        sides: "student" (a teacher reads the same tokens, if one runs) or "both" (chunks of two tokenizers).
        sources: path, subset, split, weight, number of rows and content hash of each.
        tokenizers: fingerprint by role.
        options: lengths, block size and the like, by the recipe's names.
        shard_rows: rows of the mixture that make one shard.
    """

    sides: str
    sources: list[dict[str, Any]]
    tokenizers: dict[str, str]
    options: dict[str, Any]
    shard_rows: int
    format: int = FORMAT

    def differences(self, other: Plan) -> list[str]:
        """The keys, dotted, in which two plans differ."""
        ours, theirs = _flat(asdict(self)), _flat(asdict(other))
        return sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))


@dataclass(frozen=True)
class Counts:
    """What became of rows, and what is in the examples.

    Attributes:
        rows: read; kept plus all that were dropped.
        kept: examples.
        cut: of those, how many end before their text does.
        dropped: rows by reason.
        student_tokens, teacher_tokens: of the examples, filling included.
        learnt_tokens: of the student's, those that a loss reads.
        chunks: of all examples.
        highest_id: largest of the student's token ids; -1 without examples.
    """

    rows: int = 0
    kept: int = 0
    cut: int = 0
    student_tokens: int = 0
    teacher_tokens: int = 0
    learnt_tokens: int = 0
    chunks: int = 0
    highest_id: int = -1
    dropped: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        line = f"{self.rows:,} rows, {self.kept:,} examples"
        if self.cut:
            line += f" ({self.cut:,} cut at max_length)"
        line += f", {self.student_tokens:,} student tokens, {self.learnt_tokens:,} of them learnt"
        if self.chunks:
            line += f", {self.chunks:,} chunks"
        return line + self.dropped_by_reason

    @property
    def dropped_by_reason(self) -> str:
        """The end of a line: rows dropped by reason; empty without any."""
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in self.dropped.items())
        return f"; dropped: {reasons}" if reasons else ""

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """The sum, reasons in alphabetical order."""
        sums: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        highest = -1
        for part in parts:
            values = asdict(part)
            dropped.update(values.pop("dropped"))
            highest = max(highest, values.pop("highest_id"))
            sums.update(values)
        return cls(**sums, highest_id=highest, dropped=dict(sorted(dropped.items())))


@dataclass(frozen=True)
class Shard:
    """One file of a prepared directory: its name, number of examples and content hash."""

    file: str
    examples: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A plan that was carried out."""

    plan: Plan
    counts: Counts
    shards: list[Shard]

    @property
    def fingerprint(self) -> str:
        """A hash of everything that training reads of the examples."""
        return hashlib.sha256("\n".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    def write(self, directory: Path) -> None:
        """Writes manifest.json, whole or not at all."""
        write_json(directory / MANIFEST_FILE, asdict(self))

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Reads manifest.json.

        Raises:
            ValueError: there is none, or it is not one of this format.
        """
        path = directory / MANIFEST_FILE
        if not path.is_file():
            unfinished = (directory / PLAN_FILE).is_file()
            state = "is not finished" if unfinished else "is not there"
            raise ValueError(
                f"prepared data: {str(path)!r} {state}. Run `tide prepare` with the recipe, or set "
                "data.prepared: null to prepare in memory."
            )
        values = read_json(path)
        if values.get("plan", {}).get("format") != FORMAT:
            raise ValueError(
                f"prepared data: {str(path)!r} has format {values.get('plan', {}).get('format')}, expected "
                f"{FORMAT}. Prepare the data again in another directory."
            )
        return cls(
            Plan(**values["plan"]), Counts(**values["counts"]), [Shard(**shard) for shard in values["shards"]]
        )

    def examples(self, directory: Path, *, shared: bool) -> ShardedExamples:
        """The examples of the shards in `directory`, in the mixture's order.

        Args:
            directory: where the manifest was read.
            shared: the teacher reads the student's tokens.
        """
        return ShardedExamples([directory / shard.file for shard in self.shards], shared=shared)


def read_plan(directory: Path) -> Plan | None:
    """The plan that a directory was begun with, or None."""
    path = directory / PLAN_FILE
    if not path.is_file():
        return None
    values = read_json(path)
    known = {entry.name for entry in fields(Plan)}
    return Plan(**{key: value for key, value in values.items() if key in known})


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of all that decides a tokenizer's ids: model, added tokens, chat template, special ids."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # of the last call
        model.pop(state, None)
    decisive = {
        "model": model,
        "chat_template": tokenizer.chat_template,
        "special": {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "mask")},
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of this directory.

    Raises:
        ValueError: the file is no JSON object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"prepared data: {str(path)!r} is not JSON ({error}). Prepare again.") from None
    if not isinstance(values, dict):
        raise ValueError(f"prepared data: {str(path)!r} is no JSON object. Prepare again.")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON object, written as `write_whole` does."""
    write_whole(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Text, written in one go: whoever reads it meanwhile, or after a crash, finds it whole."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list):
            value = {str(at): item for at, item in enumerate(value)}
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat

"""The records of a directory of shards, and the counts in them.

plan.json          what is to be made; written first, so that an interrupted preparation can resume
part-00000.arrow   examples of one stretch of the mixture
part-00000.json    counts of its rows, and the hash of its examples
part-00000.rejects.jsonl   its rejected rows, with the reason; only where there are some
manifest.json      the plan, all counts and every shard's hash; written last
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import Field

from tide._version import __version__
from tide.config import Record, decode, differences
from tide.data import ShardedExamples, file_hash, write_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedTokenizerFast

FORMAT = 2  # raised when examples or records mean something else; other formats are refused
PLAN_FILE, MANIFEST_FILE = "plan.json", "manifest.json"
# NumPy draws the mixture's order, pyarrow writes the shards.
_DECIDING = ("tokenizers", "transformers", "numpy", "pyarrow")
_Kind = TypeVar("_Kind", bound=Record)


class Counts(Record):
    """Counts of rows and of their examples."""

    rows: int = 0  # kept and rejected
    kept: int = 0  # examples
    cut: int = 0  # examples that end before their text does
    student_tokens: int = 0  # of the examples, filling included
    teacher_tokens: int = 0
    loss_tokens: int = 0  # student tokens that the loss reads
    chunks: int = 0
    rejected_chunks: int = 0  # left out by the aligner
    without_chunks: int = 0  # examples of two tokenizers that have no chunk
    highest_id: int = -1  # of the student's token ids; -1 without examples
    rejected: dict[str, int] = Field(default_factory=dict)  # rows by reason

    def __str__(self) -> str:
        return "\n".join([self.in_a_line, *self.rejected_in_lines])

    @property
    def in_a_line(self) -> str:
        """All but the reasons."""
        notes = [
            f"{number:,} {note}"
            for number, note in ((self.cut, "cut at max_length"), (self.without_chunks, "without chunks"))
            if number
        ]
        line = f"{self.rows:,} rows, {self.kept:,} examples" + (f" ({', '.join(notes)})" if notes else "")
        line += f", {self.student_tokens:,} student tokens, {self.loss_tokens:,} in the loss"
        line += f", {self.chunks:,} chunks" if self.chunks else ""
        return line + (f" ({self.rejected_chunks:,} rejected)" if self.rejected_chunks else "")

    @property
    def rejected_in_lines(self) -> list[str]:
        """One indented line per reason, the most frequent first."""
        width = max((len(f"{number:,}") for number in self.rejected.values()), default=0)
        return [f"  {number:>{width},} rejected: {reason}" for reason, number in self.reasons]

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Rejected rows by reason, the most frequent first."""
        return sorted(self.rejected.items(), key=lambda item: (-item[1], item[0]))

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """Add up counts; reasons come in alphabetical order."""
        sums: Counter[str] = Counter()
        rejected: Counter[str] = Counter()
        highest = -1
        for part in parts:
            sums.update(part.model_dump(exclude={"rejected", "highest_id"}))
            rejected.update(part.rejected)
            highest = max(highest, part.highest_id)
        return cls(**sums, highest_id=highest, rejected=dict(sorted(rejected.items())))


class SourceCounts(Record):
    """Rows of one source: those read are kept or rejected."""

    rows: int
    kept: int
    rejected: int

    @classmethod
    def total(cls, parts: Iterable[Sequence[SourceCounts]]) -> list[SourceCounts]:
        """Add up parts, each of which counts the same sources in the same order."""
        return [
            cls(**{name: sum(getattr(part, name) for part in of_source) for name in cls.model_fields})
            for of_source in zip(*parts, strict=True)
        ]


class Plan(Record):
    """Everything that the bytes of the shards follow from.

    Versions are recorded and not compared: other versions mostly make the same bytes.
    """

    format: int  # FORMAT
    sides: str  # "student" (a teacher, if any, reads the same tokens) or "both" (chunks of two tokenizers)
    sources: list[dict[str, Any]]  # path, subset, split, weight, number of rows and content hash of each
    tokenizers: dict[str, str]  # fingerprint by role
    options: dict[str, Any]  # lengths, block size and the like, by the recipe's names
    shard_rows: int  # rows of the mixture per shard
    versions: dict[str, str]  # `versions_here`

    def differences(self, other: Plan) -> list[str]:
        """Return the keys, dotted, in which two plans differ. 1, 1.0 and true are three values."""
        ours, theirs = (plan.model_dump(exclude={"versions"}) for plan in (self, other))
        return list(differences(ours, theirs))


class Shard(Record):
    """A file of examples: its name, their number, and the hash of its bytes."""

    file: str
    examples: int
    sha256: str


class PartReport(Record):
    """Counts of one part of a plan, in total and by source, and its shard."""

    counts: Counts
    shard: Shard
    sources: list[SourceCounts]

    @classmethod
    def read(cls, path: Path) -> PartReport:
        """Read a report; ValueError if it is none."""
        return _read(cls, path, "Prepare again.")


class Manifest(Record):
    """A plan that was carried out.

    Attributes:
        plan: as it was carried out.
        counts: of all rows.
        shards: in the mixture's order.
        sources: counts by source, in the plan's order.
    """

    plan: Plan
    counts: Counts
    shards: list[Shard]
    sources: list[SourceCounts]

    @property
    def fingerprint(self) -> str:
        """A hash of everything that training reads of the examples."""
        return hashlib.sha256("\n".join(shard.sha256 for shard in self.shards).encode()).hexdigest()

    @classmethod
    def of(cls, plan: Plan, reports: Sequence[PartReport]) -> Manifest:
        """Add up the reports of all parts, in their order."""
        return cls(
            plan=plan,
            counts=Counts.total(report.counts for report in reports),
            shards=[report.shard for report in reports],
            sources=SourceCounts.total(report.sources for report in reports),
        )

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read manifest.json.

        Raises:
            ValueError: there is none, or none of this format.
        """
        path = directory / MANIFEST_FILE
        if not path.is_file():
            state = "is not finished" if (directory / PLAN_FILE).is_file() else "is not there"
            raise ValueError(
                f"prepared data: {str(path)!r} {state}. Run `tide prepare` with the recipe, or set "
                "data.prepared: null to prepare in memory."
            )
        return _read(cls, path, "Run `tide prepare` again with its recipe.")

    def examples(self, directory: Path, *, shared: bool) -> ShardedExamples:
        """Open the shards in `directory`, in the mixture's order; each is read once and hashed.

        Raises:
            ValueError: a file is missing, or is not the one that was prepared.
        """
        paths = [directory / shard.file for shard in self.shards]
        with ThreadPoolExecutor() as pool:  # hashing does not hold the interpreter's lock
            hashes = list(pool.map(lambda path: file_hash(path) if path.is_file() else "", paths))
        for path, shard, found in zip(paths, self.shards, hashes, strict=True):
            if found != shard.sha256:
                fault = f"its SHA-256 is {found[:12]}..., in the manifest {shard.sha256[:12]}..."
                raise _not_as_prepared(path, fault if found else "it is missing")
        examples = ShardedExamples(paths, shared=shared)
        for path, shard, size in zip(paths, self.shards, examples.sizes, strict=True):
            if size != shard.examples:
                raise _not_as_prepared(path, f"it holds {size} examples, in the manifest {shard.examples}")
        return examples


def read_plan(directory: Path) -> Plan | None:
    """Read the plan that a directory was begun with; None if there is none.

    Raises:
        ValueError: it is not one of this format.
    """
    path = directory / PLAN_FILE
    remedy = "Pass --overwrite to `tide prepare`, or name another data.prepared."
    return _read(Plan, path, remedy) if path.is_file() else None


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, whole or not at all."""
    write_whole(path, record.model_dump_json(indent=1) + "\n")


def versions_here() -> dict[str, str]:
    """Return the versions of what decides the bytes of shards, by name."""
    return {"tide": __version__} | {name: version(name) for name in _DECIDING}


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Hash all that decides a tokenizer's ids and its template's output, and no state of its calls.

    These are model, added tokens, chat template, special tokens by their roles (templates write them), and
    whether special tokens in a text are split.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())
    for state in ("truncation", "padding"):  # of the last call
        model.pop(state, None)
    decisive = {
        "model": model,
        "chat_template": tokenizer.chat_template,
        "special": {role: str(token) for role, token in tokenizer.special_tokens_map.items()},
        "split_special_tokens": bool(tokenizer.split_special_tokens),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _read(kind: type[_Kind], path: Path, remedy: str) -> _Kind:
    """Decode a file of this directory; another format is refused before its fields are looked at."""
    text, where = path.read_bytes(), f"prepared data: {str(path)!r}"
    try:
        values = json.loads(text)
        found = values.get("plan", values).get("format", FORMAT)
    except (ValueError, AttributeError, RecursionError):
        found = FORMAT  # `decode` reports what is wrong
    if found != FORMAT:
        raise ValueError(
            f"{where} has format {found}, expected {FORMAT}. Prepare the data again in another directory."
        )
    return decode(kind, text, where=where, remedy=remedy)


def _not_as_prepared(path: Path, found: str) -> ValueError:
    return ValueError(
        f"prepared data: the shard {str(path)!r} is not the one that was prepared: {found}. Run "
        "`tide prepare` again with the recipe that it was made with: it makes this shard again."
    )

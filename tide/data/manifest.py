"""What a directory of shards is made of: sources, tokenizers by content, options, counts.

plan.json          what is to be made; written first, so that an interrupted preparation can go on
part-00000.arrow   examples of one stretch of the mixture; part-00000.json says what became of its rows
part-00000.rejects.jsonl   rows that were set aside, with the reason; only where there are some
manifest.json      the plan, all counts and every shard's hash; written last
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, asdict, dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from tide._version import __version__
from tide.data.counts import Counts, SourceCounts
from tide.data.shards import ShardedExamples

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerFast

FORMAT = 2  # of the shards; raised when examples mean something else
PLAN_FILE, MANIFEST_FILE = "plan.json", "manifest.json"
# NumPy draws the mixture's order, pyarrow writes the shards.
_DECIDING = ("tokenizers", "transformers", "numpy", "pyarrow")
# Fields that data prepared by earlier versions lack.
_LATER = frozenset({"versions", "sources", "without_chunks"})


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


_T = TypeVar("_T", bound=_Dataclass)


@dataclass(frozen=True)
class Plan:
    """Everything that the bytes of the shards follow from.

    Attributes:
        sides: "student" (a teacher reads the same tokens, if one runs) or "both" (chunks of two tokenizers).
        sources: path, subset, split, weight, number of rows and content hash of each.
        tokenizers: fingerprint by role.
        options: lengths, block size and the like, by the recipe's names.
        shard_rows: rows of the mixture that make one shard.
        versions: of what decides the bytes, by name, as `versions_here` gives them; recorded, and no part of
            what is compared: other versions most often make the same.
    """

    sides: str
    sources: list[dict[str, Any]]
    tokenizers: dict[str, str]
    options: dict[str, Any]
    shard_rows: int
    format: int = FORMAT
    versions: dict[str, str] = field(default_factory=dict)

    def differences(self, other: Plan) -> list[str]:
        """The keys, dotted, in which two plans differ, versions aside. 1, 1.0 and true are three values."""
        ours, theirs = (_flat({**asdict(plan), "versions": {}}) for plan in (self, other))
        return different_keys(ours, theirs)


@dataclass(frozen=True)
class Shard:
    """One file of a prepared directory: its name, number of examples and content hash."""

    file: str
    examples: int
    sha256: str


@dataclass(frozen=True)
class PartReport:
    """What one part of a plan came to.

    Attributes:
        counts: of its rows.
        shard: its examples.
        sources: counts by source, in the plan's order.
    """

    counts: Counts
    shard: Shard
    sources: list[SourceCounts] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> PartReport:
        """Reads a report that `write_json` wrote.

        Raises:
            ValueError: it is none.
        """
        values, remedy = read_json(path), "Prepare again."
        counts = _record(Counts, values.get("counts"), f"{str(path)!r}: counts", remedy)
        shard = _record(Shard, values.get("shard"), f"{str(path)!r}: shard", remedy)
        sources = _records(SourceCounts, values.get("sources", []), f"{str(path)!r}: sources", remedy)
        return _record(
            cls, values | {"counts": counts, "shard": shard, "sources": sources}, repr(str(path)), remedy
        )


@dataclass(frozen=True)
class Manifest:
    """A plan that was carried out.

    Attributes:
        plan: what was to be made.
        counts: of all rows.
        shards: in the mixture's order.
        sources: counts by source, in the plan's order; empty where an earlier version of tide did not count.
    """

    plan: Plan
    counts: Counts
    shards: list[Shard]
    sources: list[SourceCounts] = field(default_factory=list)

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
            ValueError: there is none, it is not one of this format, or its keys are not a manifest's.
        """
        path = directory / MANIFEST_FILE
        if not path.is_file():
            unfinished = (directory / PLAN_FILE).is_file()
            state = "is not finished" if unfinished else "is not there"
            raise ValueError(
                f"prepared data: {str(path)!r} {state}. Run `tide prepare` with the recipe, or set "
                "data.prepared: null to prepare in memory."
            )
        values, where = read_json(path), repr(str(path))
        remedy = "Run `tide prepare` again with its recipe."
        read = {
            "plan": _plan(values.get("plan"), where, f"{where}: plan", remedy),
            "counts": _record(Counts, values.get("counts"), f"{where}: counts", remedy),
            "shards": _records(Shard, values.get("shards"), f"{where}: shards", remedy),
            "sources": _records(SourceCounts, values.get("sources", []), f"{where}: sources", remedy),
        }
        return _record(cls, values | read, where, remedy)

    def examples(self, directory: Path, *, shared: bool) -> ShardedExamples:
        """The examples of the shards in `directory`, in the mixture's order.

        Every file is read once and hashed. A process that the examples are sent to reads what it needs alone.

        Args:
            directory: where the manifest was read.
            shared: the teacher reads the student's tokens.
        Raises:
            ValueError: a file is missing, or is not the one that was prepared.
        """
        paths = [directory / shard.file for shard in self.shards]
        with ThreadPoolExecutor() as pool:  # hashing does not hold the interpreter's lock
            hashes = list(pool.map(_hash_if_there, paths))
        for path, shard, found in zip(paths, self.shards, hashes, strict=True):
            if found is None:
                raise _not_as_prepared(path, "it is missing")
            if found != shard.sha256:
                raise _not_as_prepared(
                    path, f"its SHA-256 is {found[:12]}..., in the manifest {shard.sha256[:12]}..."
                )
        examples = ShardedExamples(paths, shared=shared)
        for path, shard, size in zip(paths, self.shards, examples.sizes, strict=True):
            if size != shard.examples:
                raise _not_as_prepared(path, f"it holds {size} examples, in the manifest {shard.examples}")
        return examples


def read_plan(directory: Path) -> Plan | None:
    """The plan that a directory was begun with, or None.

    Raises:
        ValueError: it is not one of this format, or its keys are not a plan's.
    """
    path = directory / PLAN_FILE
    if not path.is_file():
        return None
    where = repr(str(path))
    return _plan(
        read_json(path), where, where, "Pass --overwrite to `tide prepare`, or name another data.prepared."
    )


def versions_here() -> dict[str, str]:
    """Versions of what decides the bytes of shards, by name."""
    return {"tide": __version__} | {name: version(name) for name in _DECIDING}


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash of all that decides a tokenizer's ids and its template's output, and of no state of its calls.

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
    return hashlib.sha256(canonical_json(decisive).encode()).hexdigest()


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


def canonical_json(value: object) -> str:
    """JSON that is equal for equal values alone: in Python, 1 == 1.0 == True."""
    return json.dumps(value, sort_keys=True)


def different_keys(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    """Keys, sorted, whose values are not the same JSON; a key that is missing is null."""
    keys = sorted(one.keys() | other.keys())
    return [key for key in keys if canonical_json(one.get(key)) != canonical_json(other.get(key))]


def _plan(values: object, file: str, where: str, remedy: str) -> Plan:
    there = values.get("format") if isinstance(values, dict) else None
    if there is not None and there != FORMAT:
        raise ValueError(
            f"prepared data: {file} has format {there}, expected {FORMAT}. Prepare the data again in another "
            "directory."
        )
    return _record(Plan, values, where, remedy)


def _records(kind: type[_T], values: object, where: str, remedy: str) -> list[_T]:
    if not isinstance(values, list):
        raise ValueError(f"prepared data: {where} is no JSON list. {remedy}")
    return [_record(kind, each, where, remedy) for each in values]


def _record(kind: type[_T], values: object, where: str, remedy: str) -> _T:
    """A dataclass of the JSON object that has its keys, with values of their types, and no others."""
    if not isinstance(values, dict):
        raise ValueError(f"prepared data: {where} is no JSON object. {remedy}")
    types = {entry.name: str(entry.type).partition("[")[0] for entry in fields(kind)}
    given = {name: type(value).__name__ for name, value in values.items()}
    required = [
        entry.name
        for entry in fields(kind)
        if entry.name not in _LATER or (entry.default is MISSING and entry.default_factory is MISSING)
    ]
    wrong = [f"no {name!r}" for name in required if name not in given]
    wrong += [f"{name!r}, which is unknown" for name in given if name not in types]
    wrong += [
        f"{name!r} of type {given[name]}" for name in types if given.get(name, types[name]) != types[name]
    ]
    if wrong:
        raise ValueError(f"prepared data: {where} has {', '.join(wrong)}. {remedy}")
    return kind(**values)


def _hash_if_there(path: Path) -> str | None:
    return file_hash(path) if path.is_file() else None


def _not_as_prepared(path: Path, found: str) -> ValueError:
    return ValueError(
        f"prepared data: the shard {str(path)!r} is not the one that was prepared: {found}. Run "
        "`tide prepare` again with the recipe that it was made with: it makes this shard again."
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list):
            value = {str(at): item for at, item in enumerate(value)}
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat

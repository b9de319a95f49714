"""What one quickstart run measured: the records, and their JSON form.

The tables, the plots and the report are made from `Results` alone, so none of them needs training again. The
JSON form is strict both ways: reading refuses unknown, missing and mistyped fields by their path, and writing
keeps to standard JSON (a loss that diverged is the string "nan", "inf" or "-inf" in the file).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

TIMESTEPS = ("0.25", "0.5", "0.75")
"""Diffusion times of the held-out evaluation and keys of `Evaluation`; a share t of the tokens is masked."""

BASELINE = "none"
"""The method that every other one is compared with: the same training without a teacher."""

# What methods are compared by in training, by preference. Totals are comparable only where their terms agree.
_SHARED_TERMS = ("cross_entropy", "ce", "loss")

_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

SettingValue = bool | int | float | str | list[bool | int | float | str]
T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """Held-out figures of one model, by diffusion time (keys: `TIMESTEPS`).

    nats_per_byte: masked-token loss over the bytes that the tokens spell; comparable across tokenizers.
    accuracy: share of masked tokens whose top-1 prediction is right, in [0, 1]; not so comparable.
    tokens, bytes: size of the held-out text.
    """

    nats_per_byte: dict[str, float]
    accuracy: dict[str, float]
    tokens: int
    bytes: int

    def __post_init__(self) -> None:
        for name in ("nats_per_byte", "accuracy"):
            keys = set(getattr(self, name))
            if keys != set(TIMESTEPS):
                raise ValueError(
                    f"Evaluation: {name} needs one value per diffusion time {list(TIMESTEPS)}; got "
                    f"{sorted(keys)}. Evaluate at exactly those times and key the values by these strings."
                )


@dataclass(frozen=True)
class ModelFacts:
    """A model as the report names it. parameters: number of weights, a tied head counted once."""

    name: str
    parameters: int
    vocabulary_size: int


@dataclass(frozen=True)
class CurvePoint:
    """Loss terms at one logging step, by name ("cross_entropy", "tidal", ...), in nats, as logged."""

    step: int
    terms: dict[str, float]


@dataclass(frozen=True)
class Completion:
    """A prompt, what the student wrote after it, and what the source has there."""

    prompt: str
    completion: str
    reference: str


@dataclass(frozen=True)
class Run:
    """One student: one method, one seed.

    seconds: wall clock of training. peak_memory_mib: peak resident memory of the process, MiB.
    tokens_per_second: student tokens in training. completions: kept for one seed only.
    held_out_curve: (step, nats per byte, mean over `TIMESTEPS`); the plots set the teacher beside it only if
    its last point is the final evaluation to 1 %, that is, if both read the same held-out text.
    """

    method: str
    seed: int
    evaluation: Evaluation
    seconds: float
    peak_memory_mib: float
    tokens_per_second: float
    curve: list[CurvePoint] = field(default_factory=list)
    held_out_curve: list[tuple[int, float]] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)

    def term_curve(self, term: str) -> list[tuple[int, float]]:
        """(step, value) of one loss term, at the steps that logged it."""
        return [(point.step, point.terms[term]) for point in self.curve if term in point.terms]


@dataclass(frozen=True)
class Pipeline:
    """A teacher, a student, and the student's runs.

    start_evaluation: of the undistilled checkpoint that every run starts from.
    """

    name: str
    student: ModelFacts
    teacher: ModelFacts
    teacher_evaluation: Evaluation | None
    start_evaluation: Evaluation
    runs: list[Run]

    def __post_init__(self) -> None:
        seen: set[tuple[str, int]] = set()
        for run in self.runs:
            if (run.method, run.seed) in seen:
                raise ValueError(
                    f"Pipeline {self.name!r}: one run per method and seed; got method {run.method!r}, "
                    f"seed {run.seed} twice. Drop one of them."
                )
            seen.add((run.method, run.seed))

    @property
    def slug(self) -> str:
        """The name for files and anchors: lower case letters, digits and hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def methods(self) -> list[str]:
        """Methods in the order in which they first ran."""
        return list(dict.fromkeys(run.method for run in self.runs))

    def runs_of(self, method: str) -> list[Run]:
        """The runs of one method, by seed."""
        return sorted((run for run in self.runs if run.method == method), key=lambda run: run.seed)

    def shared_term(self) -> str | None:
        """The loss term to compare methods by: one that all of them logged (cross-entropy if so), or None."""
        terms = [set(names) for names in self._terms().values()]
        common = set.intersection(*terms) if terms else set()
        return next((name for name in _SHARED_TERMS if name in common), min(common, default=None))

    def own_terms(self) -> list[tuple[str, str]]:
        """(method, loss term) for what one method trains on and another does not; totals left out."""
        terms = self._terms()
        common = set.intersection(*(set(names) for names in terms.values())) if terms else set()
        left_out = common | set(_SHARED_TERMS)
        return [(method, name) for method, names in terms.items() for name in names if name not in left_out]

    def _terms(self) -> dict[str, list[str]]:
        """Method -> names of the loss terms that it logged, in order of appearance."""
        logged: dict[str, dict[str, None]] = {}
        for run in self.runs:
            for point in run.curve:
                logged.setdefault(run.method, {}).update(dict.fromkeys(point.terms))
        return {method: list(names) for method, names in logged.items()}


@dataclass(frozen=True)
class HeatMap:
    """Settings of the lambda schedule that the heat map shows (see `tide.losses.lambda_schedule`)."""

    lambda_init: float = 0.1
    lambda_max: float = 0.9
    decay: str = "cosine"
    axis: str = "both"


@dataclass(frozen=True)
class Results:
    """Everything that one quickstart run measured.

    environment: what it ran on (python, torch, transformers, cpu, threads, commit or version), as text.
    settings: what it ran (steps, batch, learning rate, seeds, ...), as text, numbers, or lists of these.
    """

    environment: dict[str, str]
    settings: dict[str, SettingValue]
    pipelines: list[Pipeline]
    heat_map: HeatMap = field(default_factory=HeatMap)

    def __post_init__(self) -> None:
        slugs = [pipeline.slug for pipeline in self.pipelines]
        if "" in slugs or len(set(slugs)) < len(slugs):
            raise ValueError(
                "Results: pipelines are told apart by the letters and digits of their names; got "
                f"{[pipeline.name for pipeline in self.pipelines]}. Rename one."
            )

    def to_json(self) -> str:
        """Standard JSON, indented, with a final newline."""
        return (
            json.dumps(_encode(dataclasses.asdict(self)), indent=1, ensure_ascii=False, allow_nan=False)
            + "\n"
        )

    @classmethod
    def from_json(cls, text: str) -> Results:
        """The inverse of `to_json`.

        Raises:
            ValueError: the text is not JSON, or a field is unknown, missing or of another type.
        """
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"Results.from_json: not JSON: {error}. The file may be cut off: run the quickstart again."
            ) from None
        results: Results = _decode(cls, document, "results")
        return results

    def save(self, path: str | Path) -> Path:
        """Writes the JSON form; a reader sees the old file or the new one, never half of either."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.to_json(), encoding="utf-8")
        return partial.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Reads what `save` wrote.

        Raises:
            ValueError: there is no such file, or `from_json` refuses its content; the message names the file.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"Results.load: no file {str(path)!r}. Run the quickstart first.") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _refuse_constant(constant: str) -> float:
    raise ValueError(
        f'Results.from_json: {constant} is not standard JSON. Write it as the string "nan", "inf" or "-inf".'
    )


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _decode(kind: Any, value: Any, path: str) -> Any:
    """`value`, as parsed from JSON, as an instance of the annotation `kind`; `path` locates it in errors."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _decode_record(kind, value, path)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(arguments, value, path)
    if origin is list and isinstance(value, list):
        return [_decode(arguments[0], item, f"{path}[{index}]") for index, item in enumerate(value)]
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(_decode(arguments[i], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _decode(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is float and isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    if kind in (int, str) and type(value) is kind:
        return value
    if kind is type(None) and value is None:
        return None
    raise _mismatch(kind, value, path)


def _decode_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    # The exact type first: an int stays an int where a float is allowed too, and "inf" text where text is.
    if type(value) in kinds:
        return value
    for kind in kinds:
        if typing.get_origin(kind) is type(value) or (
            dataclasses.is_dataclass(kind) and isinstance(value, dict)
        ):
            return _decode(kind, value, path)
    raise _mismatch(" or ".join(_kind_name(kind) for kind in kinds), value, path)


def _decode_record(cls: type[T], value: Any, path: str) -> T:
    if not isinstance(value, dict):
        raise _mismatch(cls, value, path)
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    names = [entry.name for entry in fields]
    for name in value:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known fields: {', '.join(names)}."
            raise ValueError(f"Results.from_json: {path} has no field {name!r}. {hint}")
    missing = [name for name in names if name not in value]
    if missing:
        raise ValueError(
            f"Results.from_json: {path} lacks {', '.join(map(repr, missing))}. "
            "The file may come from another version: run the quickstart again."
        )
    return cls(**{name: _decode(hints[name], value[name], f"{path}.{name}") for name in names})


def _mismatch(kind: Any, value: Any, path: str) -> ValueError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return ValueError(
        f"Results.from_json: {path} must be {_kind_name(kind)}; got {type(value).__name__} {shown}. "
        "Correct the file or run the quickstart again."
    )


def _kind_name(kind: Any) -> str:
    if isinstance(kind, str):
        return kind
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)

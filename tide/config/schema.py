"""What a recipe says, one record per stage. The type beside a field is what the reader enforces.

A relative path in a recipe is relative to the current directory, as the paths given to transformers are, and
not to the recipe's own directory; `Recipe.resolved_paths` spells them out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Literal

from tide.config.checks import RULES
from tide.config.document import Document, to_yaml
from tide.config.fields import Interval, Words
from tide.config.problem import Place
from tide.config.strict import apply_overrides, read
from tide.methods import METHODS

Count = Annotated[int, Interval(at_least=1)]
CountOrZero = Annotated[int, Interval(at_least=0)]
Positive = Annotated[float, Interval(above=0)]
NotNegative = Annotated[float, Interval(at_least=0)]
Fraction = Annotated[float, Interval(at_least=0, at_most=1)]
InnerFraction = Annotated[float, Interval(above=0, below=1)]


@dataclass(frozen=True)
class ModelConfig:
    """A checkpoint and how it is held in memory."""

    path: str  # a directory, or a name on the Hugging Face hub
    tokenizer: str | None = None  # the same; the model's own if null
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # a student trains in float32
    trainable: bool | None = (
        None  # follows from the role; here so that a recipe may say it, and be told if it is wrong
    )
    template_arguments: dict[str, str | int | float | bool] = field(
        default_factory=dict  # variables of the chat template, such as enable_thinking: false
    )

    @property
    def tokenizer_path(self) -> str:
        """Where the tokenizer is: `tokenizer`, or else `path`."""
        return self.path if self.tokenizer is None else self.tokenizer

    @property
    def tokenizer_key(self) -> str:
        """The key that says where the tokenizer is."""
        return "path" if self.tokenizer is None else "tokenizer"


@dataclass(frozen=True)
class SourceConfig:
    """Rows of conversations, of prompts and completions, or of text."""

    path: str  # a file, directory or glob of JSONL, Parquet or Arrow, or a name on the Hugging Face hub
    subset: str | None = None  # the configuration of a data set on the hub
    split: str = "train"
    weight: Positive = 1.0  # share of its rows that is taken; above 1 repeats rows
    answer_contains: str | None = None  # only rows with this text in an answer; all rows if null


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how much of each example is kept."""

    train: str | None = None  # one source, as SourceConfig.path; or else `sources`
    sources: list[SourceConfig] = field(default_factory=list)  # what is mixed
    prepared: str | None = None  # where `tide prepare` writes and training reads; prepared in memory if null
    held_out: str | None = None  # one source; none is evaluated if null
    held_out_split: str = "test"  # of it, where it has splits
    max_length: Count = 512  # student tokens, a multiple of masking.block_size
    teacher_max_length: Count | None = None  # teacher tokens, likewise; max_length if null
    end_fill: Literal["learnt", "unlearnt", "none"] = "learnt"  # end-of-text up to a whole block
    chunk_merging: Literal["none", "words", "length"] = "none"  # "words": no chunk ends inside a word
    chunk_max_bytes: Count | None = None  # of a merged chunk; no limit if null
    chunk_max_tokens: Count | None = None  # the same, on the side that has more
    num_rows: Count | None = None  # of the mixture, in proportion to the weights; all if null
    mix_seed: CountOrZero = 0  # of the order in which the rows of sources mix
    num_workers: CountOrZero = 0  # processes that load batches; 0 loads in the training process

    @property
    def mixture(self) -> list[SourceConfig]:
        """The sources, `train` being one."""
        return self.sources if self.train is None else [SourceConfig(self.train)]

    @property
    def teacher_length(self) -> int:
        """Tokens that the teacher sees at most: `teacher_max_length`, or else `max_length`."""
        return self.max_length if self.teacher_max_length is None else self.teacher_max_length


@dataclass(frozen=True)
class MaskingConfig:
    """How text is noised, and what of it the teacher is shown."""

    block_size: Count = 32  # tokens
    time_epsilon: InnerFraction = 1e-3  # smallest timestep; the weight 1/t is bounded by its inverse
    student_masking: Literal["tokens", "chunks"] = "tokens"  # "chunks": spans whole in both tokenizations
    demo_ratio: InnerFraction = (
        0.5  # CompDemo: share of the masked tokens revealed in the teacher's first view
    )


@dataclass(frozen=True)
class ObjectiveConfig:
    """The loss. A null leaves the choice to the method; a knob that the method does not use has no effect."""

    temperature: Positive = 2.0  # of token distributions
    chunk_temperature: Positive = 2.0  # of chunk likelihoods
    ce_weight: NotNegative = 1.0
    distill_weight: NotNegative = 1.0
    lambda_init: Fraction = 0.1  # teacher's share of the TIDAL target when training starts
    lambda_max: Fraction = 0.9  # and when it ends
    lambda_decay: Literal["cosine", "linear"] = "cosine"
    lambda_axis: Literal["both", "training", "timestep"] | None = None
    timestep_weight: Literal["uniform", "midrange"] | None = None
    chunk_eps: Annotated[float, Interval(above=0, below=0.5)] = (
        1e-7  # chunk likelihoods are kept in [eps, 1 - eps]
    )
    chunk_divergence: Literal["bce", "kl"] = "bce"
    ce_normalizer: Literal["token", "sequence", "batch"] = "token"


@dataclass(frozen=True)
class TrainingConfig:
    """The optimiser and its bookkeeping, by the names that transformers gives them."""

    output_dir: str
    max_steps: Count  # optimiser steps
    batch_size: Count = 8  # sequences per device and forward pass
    gradient_accumulation_steps: Count = 1
    learning_rate: Positive = 5e-5
    warmup_ratio: Fraction = 0.1  # share of max_steps
    lr_scheduler: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    weight_decay: NotNegative = 0.0
    max_grad_norm: NotNegative = 1.0  # 0 does not clip
    precision: Literal["fp32", "bf16"] = "fp32"  # of the arithmetic; the weights stay float32
    seed: Annotated[int, Interval(at_least=0, at_most=2**32 - 1)] = 0  # NumPy takes 32 bits
    logging_steps: Count = 10
    save_steps: Count = 500
    save_total_limit: Count = 2  # checkpoints kept
    report_to: list[str] = field(default_factory=list)  # trackers by transformers' names; empty for none
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One distillation run, whole and checked: a `Recipe` that exists is valid.

    Numbers are in their declared type (a learning rate of 1 is 1.0). With method `none` a teacher may stay in
    the recipe; it is neither loaded nor used.

    Raises:
        RecipeError: a value is of the wrong type or out of bounds, or two values contradict each other.
    Source: methods and defaults of TIDE (arXiv 2604.26951).
    """

    method: Annotated[str, Words(tuple(METHODS))]
    student: ModelConfig
    teacher: ModelConfig | None = None
    data: DataConfig
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    training: TrainingConfig

    def __post_init__(self) -> None:
        checked = read(Recipe, Document.from_mapping(asdict(self), Place("recipe")), RULES)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> Recipe:
        """A recipe from nested plain values, such as `Recipe.to_dict` gives or a YAML reader returns.

        Raises:
            RecipeError: as for a file; places are "recipe" instead of lines.
        """
        return cls(**read(cls, Document.from_mapping(values, Place("recipe")), RULES))

    def to_dict(self) -> dict[str, object]:
        """Nested plain values, every default written out; the caller's to change."""
        return asdict(self)

    def to_yaml(self) -> str:
        """YAML text with every default written out; `load_recipe` of it gives an equal recipe."""
        return to_yaml(self.to_dict())

    @property
    def resolved_paths(self) -> dict[str, str]:
        """Every path given, by dotted key, absolute from the current directory; `~` is the home directory.

        A model or tokenizer that is no directory here is left as written: it is a name on the hub.
        """
        models = {"student": self.student, "teacher": self.teacher}
        resolved = {
            f"{role}.{name}": _resolved(given) if os.path.isdir(os.path.expanduser(given)) else given
            for role, model in models.items()
            if model is not None
            for name, given in (("path", model.path), ("tokenizer", model.tokenizer_path))
        }
        files = {
            "data.train": self.data.train,
            "data.prepared": self.data.prepared,
            "data.held_out": self.data.held_out,
            "training.output_dir": self.training.output_dir,
        } | {f"data.sources.{at}.path": source.path for at, source in enumerate(self.data.sources)}
        return resolved | {key: _resolved(given) for key, given in files.items() if given is not None}


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a YAML file, strictly.

    Args:
        path: the file.
        overrides: `key=value` texts with dotted keys and YAML values, such as `training.max_steps=10` or
            `training.report_to=[tensorboard]`, written over the file in order.
    Returns:
        The recipe, checked.
    Raises:
        RecipeError: one line per thing that is wrong, with file and line (or the override), key and remedy.
    """
    if isinstance(overrides, str):
        raise TypeError(
            f"load_recipe: overrides is a list of key=value texts, got the text {overrides!r}; wrap it in []"
        )
    document = Document.from_file(path)
    apply_overrides(Recipe, document, overrides)
    return Recipe(**read(Recipe, document, RULES))


def _resolved(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))

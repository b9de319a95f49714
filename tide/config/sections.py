"""The sections of a recipe, one per stage: every key with its type, bounds, default and meaning.

A relative path starts from the current directory, as transformers reads it, and not from the recipe's own.
~ is the home directory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from tide.config.values import (
    BelowHalf,
    Count,
    CountOrZero,
    Fraction,
    InnerFraction,
    Length,
    NamedValues,
    NotNegative,
    PathText,
    Positive,
    Section,
    Temperature,
    Text,
)
from tide.methods import METHODS, LambdaAxis, TimestepWeight

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]
LrScheduler = Literal[
    "constant",
    "constant_with_warmup",
    "cosine",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "inverse_sqrt",
    "linear",
    "polynomial",
    "warmup_stable_decay",
]


class ModelConfig(Section):
    """A checkpoint and how it is held in memory."""

    path: PathText = Field(description="directory, or name on the Hugging Face hub")
    tokenizer: PathText | None = Field(None, description="the same, for the tokenizer; null: the model's own")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="weights in memory; a student trains in float32"
    )
    trainable: bool | None = Field(
        None, description="follows from the role: true for student, false for teacher"
    )
    quantization: Literal["4bit", "8bit"] | None = Field(
        None, description="of a teacher's linear layers, by bitsandbytes"
    )
    device: Text | None = Field(None, description="of a teacher, such as cuda:1; null: the student's")
    attn_implementation: Literal["sdpa", "flex_attention", "flash_attention_2"] | None = Field(
        None, description="transformers' attention; null: the fastest for device, weights and contract"
    )
    contract: Literal["trained", "official", "ar"] = Field(
        "trained",
        description="how it reads a text: as its makers trained it, as the published TIDE code runs it, or "
        "as an autoregressive model",
    )
    contract_values: NamedValues = Field(
        default_factory=dict,
        description="values in place of the contract's: mask_id, block_size (0: the whole text), in_block, "
        "shift, lowest_rate, highest_rate",
    )
    template_arguments: NamedValues = Field(
        default_factory=dict, description="variables of the chat template, such as enable_thinking: false"
    )

    @property
    def tokenizer_path(self) -> str:
        """`tokenizer`, or else `path`."""
        return self.path if self.tokenizer is None else self.tokenizer

    @property
    def tokenizer_key(self) -> str:
        """The key that names the tokenizer."""
        return "path" if self.tokenizer is None else "tokenizer"


class SourceConfig(Section):
    """Rows of conversations, of prompts and completions, or of text."""

    path: PathText = Field(
        description="file, directory or glob of JSONL, Parquet or Arrow, or name on the hub"
    )
    subset: Text | None = Field(None, description="configuration of a data set on the hub")
    split: Text = Field("train", description="split, where the source has any")
    weight: Positive = Field(1.0, description="share of its rows that is taken; above 1 repeats rows")
    answer_contains: Text | None = Field(None, description="take only rows with this text in an answer")


class DataConfig(Section):
    """The rows to train on, and how much of each is kept."""

    train: PathText | None = Field(None, description="one source (a path as in sources), or use `sources`")
    sources: list[SourceConfig] = Field(default_factory=list, description="sources to mix")
    prepared: PathText | None = Field(
        None, description="directory that `tide prepare` writes and training reads; null: prepare in memory"
    )
    held_out: PathText | None = Field(None, description="source to evaluate on at the end; null: none")
    held_out_split: Text = Field("test", description="split of held_out, where it has any")
    max_length: Length = Field(512, description="student tokens; a multiple of masking.block_size")
    teacher_max_length: Length | None = Field(None, description="teacher tokens, likewise; null: max_length")
    end_fill: Literal["learnt", "unlearnt", "none"] = Field(
        "learnt", description="end-of-text up to the end of the last block: in the loss, outside it, or none"
    )
    chunk_merging: Literal["none", "words", "length"] = Field(
        "none", description='merge chunks; "words": no chunk ends inside a word'
    )
    chunk_max_bytes: Count | None = Field(None, description="bytes of a merged chunk; null: no limit")
    chunk_max_tokens: Count | None = Field(None, description="the same in tokens, on the side with more")
    num_rows: Count | None = Field(None, description="rows of the mixture, by weight; null: all")
    mix_seed: CountOrZero = Field(0, description="seed of the order in which sources mix")
    num_workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        0, description="processes that load batches; 0: the training process"
    )

    @property
    def mixture(self) -> list[SourceConfig]:
        """The sources, `train` being one."""
        return self.sources if self.train is None else [SourceConfig(path=self.train)]

    @property
    def teacher_length(self) -> int:
        """`teacher_max_length`, or else `max_length`."""
        return self.max_length if self.teacher_max_length is None else self.teacher_max_length


class MaskingConfig(Section):
    """How text is noised, and which views of it the teacher sees."""

    block_size: Length = Field(32, description="tokens of a block")
    time_epsilon: InnerFraction = Field(1e-3, description="smallest timestep; bounds the weight 1/t")
    student_masking: Literal["tokens", "chunks", "consistent"] = Field(
        "tokens",
        description='unit of masking; "chunks": spans whole in both tokenizations, at rate t; "consistent": '
        "whole where any of their tokens is drawn, as the official code does",
    )
    consistent_weight: Literal["unbiased", "official"] = Field(
        "unbiased",
        description='cross-entropy weight under "consistent": one over the rate at which a chunk is masked, '
        "or over t",
    )
    teacher_rates: Literal["clip", "skip", "ignore"] = Field(
        "clip",
        description="texts outside the mask rates that the teacher was trained at: show it more or less of "
        "them, distil none of them, or ask it all the same",
    )
    demo_ratio: InnerFraction = Field(
        0.5, description="CompDemo: share of masked tokens revealed in the teacher's first view"
    )


class ObjectiveConfig(Section):
    """The loss. Null leaves the choice to the method; a key that the method does not use has no effect."""

    temperature: Temperature = Field(2.0, description="temperature of token distributions")
    chunk_temperature: Temperature = Field(2.0, description="temperature of chunk likelihoods")
    ce_weight: NotNegative = Field(1.0, description="weight of the cross-entropy")
    distill_weight: NotNegative = Field(1.0, description="weight of the distillation term")
    lambda_init: Fraction = Field(0.1, description="teacher's share of the TIDAL target at the start")
    lambda_max: Fraction = Field(0.9, description="teacher's share of the TIDAL target at the end")
    lambda_decay: Literal["cosine", "linear"] = Field("cosine", description="curve between the two")
    lambda_axis: LambdaAxis | None = Field(None, description="what lambda follows; null: the method's choice")
    timestep_weight: TimestepWeight | None = Field(
        None, description="weight of a masked position by its timestep; null: the method's choice"
    )
    chunk_eps: BelowHalf = Field(1e-7, description="chunk likelihoods are clamped to [eps, 1 - eps]")
    chunk_divergence: Literal["bce", "kl"] = Field("bce", description="divergence of chunk likelihoods")
    ce_normalizer: Literal["token", "sequence", "batch"] = Field(
        "token", description="divisor of the cross-entropy"
    )


class TrainingConfig(Section):
    """The optimiser and its bookkeeping, by transformers' names; null leaves the choice to transformers."""

    output_dir: PathText = Field(
        description="directory of the student, its checkpoints, recipe.yaml and summary.json"
    )
    max_steps: Count | None = Field(None, description="optimiser steps, or use num_train_epochs")
    num_train_epochs: Positive | None = Field(None, description="passes over the data, in place of max_steps")
    batch_size: Count = Field(8, description="sequences per device and forward pass")
    gradient_accumulation_steps: Count = Field(1, description="forward passes per optimiser step")
    learning_rate: Positive = Field(5e-5, description="peak learning rate")
    warmup_ratio: Fraction = Field(0.1, description="warm-up, as a share of all steps")
    warmup_steps: CountOrZero | None = Field(None, description="warm-up in steps, in place of warmup_ratio")
    lr_scheduler: LrScheduler = Field("cosine", description="learning rate after the warm-up")
    weight_decay: NotNegative = Field(0.0, description="AdamW weight decay")
    max_grad_norm: NotNegative = Field(1.0, description="gradient clipping; 0: none")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic; the weights stay float32")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(0, description="seed of noise and data order")
    logging_steps: Count = Field(10, description="steps between log entries")
    save_steps: Count = Field(500, description="steps between checkpoints")
    save_total_limit: Count = Field(2, description="checkpoints kept")
    eval_steps: Count | None = Field(
        None, description="steps between evaluations of data.held_out; null: before and after training"
    )
    report_to: list[Text] = Field(default_factory=list, description="trackers, by transformers' names")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")

    optim: Text | None = Field(None, description="optimiser, such as adamw_torch_fused or adafactor")
    optim_args: Text | None = Field(None, description="arguments of the optimiser, as key=value,key=value")
    adam_beta1: Fraction | None = Field(None, description="decay of AdamW's first moment")
    adam_beta2: Fraction | None = Field(None, description="decay of AdamW's second moment")
    adam_epsilon: NotNegative | None = Field(None, description="added to AdamW's denominator")
    lr_scheduler_kwargs: NamedValues | None = Field(None, description="arguments of the scheduler")
    tf32: bool | None = Field(None, description="TF32 matrix products")
    full_determinism: bool | None = Field(None, description="deterministic algorithms, slower")
    disable_tqdm: bool | None = Field(None, description="no progress bar")
    run_name: Text | None = Field(None, description="the run's name in trackers")
    project: Text | None = Field(None, description="the run's project in trackers")
    logging_strategy: Literal["steps", "epoch", "no"] | None = Field(None, description="unit of logging")
    logging_first_step: bool | None = Field(None, description="log the first step, too")
    log_level: Text | None = Field(None, description="verbosity of the main process")
    save_strategy: Literal["steps", "epoch", "no"] | None = Field(None, description="unit of checkpoints")
    push_to_hub: bool | None = Field(None, description="upload the student when saved")
    hub_model_id: Text | None = Field(None, description="repository to upload to")
    hub_private_repo: bool | None = Field(None, description="make the repository private")
    hub_revision: Text | None = Field(None, description="branch to upload to")
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] | None = Field(
        None, description="when to upload"
    )
    dataloader_drop_last: bool | None = Field(None, description="drop the last, smaller batch")
    dataloader_persistent_workers: bool | None = Field(None, description="keep workers between epochs")
    dataloader_prefetch_factor: Count | None = Field(None, description="batches loaded ahead per worker")
    ddp_backend: Text | None = Field(None, description="communication between processes")
    ddp_timeout: Count | None = Field(None, description="seconds before communication fails")
    ddp_find_unused_parameters: bool | None = Field(None, description="search unused parameters; null: no")

    @model_serializer(mode="wrap")
    def _without_null(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class Sections(Section):
    """All sections, not yet checked against each other: `Recipe` is."""

    method: MethodName = Field(description="distillation method")
    student: ModelConfig = Field(description="model to train")
    teacher: ModelConfig | None = Field(None, description="model to learn from; frozen")
    data: DataConfig = Field(description="rows to train on")
    masking: MaskingConfig = Field(default_factory=MaskingConfig, description="noise")
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig, description="loss")
    training: TrainingConfig = Field(description="optimiser and bookkeeping")

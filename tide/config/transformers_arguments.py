"""Keys of `training:` that pass through to transformers' TrainingArguments, and those that do not.

TrainingConfig sets, passes on from here, or refuses with a reason every field of TrainingArguments.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tide.config.values import Count, Fraction, NamedValues, NotNegative, Section, Text


class TransformersArguments(Section):
    """Passed on to TrainingArguments; null leaves the choice to transformers."""

    optim: Text | None = Field(None, description="optimiser, such as adamw_torch_fused or adafactor")
    optim_args: Text | None = Field(None, description="arguments of the optimiser, as key=value,key=value")
    optim_target_modules: list[Text] | None = Field(None, description="modules of GaLore and APOLLO")
    adam_beta1: Fraction | None = Field(None, description="decay of AdamW's first moment")
    adam_beta2: Fraction | None = Field(None, description="decay of AdamW's second moment")
    adam_epsilon: NotNegative | None = Field(None, description="added to AdamW's denominator")
    lr_scheduler_kwargs: NamedValues | None = Field(None, description="arguments of the scheduler")
    tf32: bool | None = Field(None, description="TF32 matrix products")
    torch_empty_cache_steps: Count | None = Field(None, description="steps between emptying the cache")
    full_determinism: bool | None = Field(None, description="deterministic algorithms, slower")
    disable_tqdm: bool | None = Field(None, description="no progress bar")
    run_name: Text | None = Field(None, description="the run's name in trackers")
    project: Text | None = Field(None, description="the run's project in trackers")
    trackio_space_id: Text | None = Field(None, description="Hugging Face Space of Trackio")
    trackio_bucket_id: Text | None = Field(None, description="Hugging Face bucket of Trackio")
    trackio_static_space_id: Text | None = Field(None, description="static Space of Trackio")
    logging_strategy: Literal["steps", "epoch", "no"] | None = Field(None, description="unit of logging")
    logging_first_step: bool | None = Field(None, description="log the first step, too")
    log_level: Text | None = Field(None, description="verbosity of the main process")
    log_level_replica: Text | None = Field(None, description="verbosity of the others")
    log_on_each_node: bool | None = Field(None, description="log once per node")
    save_strategy: Literal["steps", "epoch", "no"] | None = Field(None, description="unit of checkpoints")
    save_on_each_node: bool | None = Field(None, description="save once per node")
    push_to_hub: bool | None = Field(None, description="upload the student when saved")
    hub_model_id: Text | None = Field(None, description="repository to upload to")
    hub_private_repo: bool | None = Field(None, description="make the repository private")
    hub_revision: Text | None = Field(None, description="branch to upload to")
    hub_strategy: Literal["end", "every_save", "checkpoint", "all_checkpoints"] | None = Field(
        None, description="when to upload"
    )
    hub_always_push: bool | None = Field(None, description="do not skip an upload while another runs")
    dataloader_drop_last: bool | None = Field(None, description="drop the last, smaller batch")
    dataloader_in_order: bool | None = Field(None, description="batches of workers in order")
    dataloader_persistent_workers: bool | None = Field(None, description="keep workers between epochs")
    dataloader_prefetch_factor: Count | None = Field(None, description="batches loaded ahead per worker")
    dataloader_multiprocessing_context: Text | None = Field(None, description="how workers start")
    ddp_backend: Text | None = Field(None, description="communication between processes")
    ddp_timeout: Count | None = Field(None, description="seconds before communication fails")
    ddp_bucket_cap_mb: Count | None = Field(None, description="size of gradient buckets")
    ddp_find_unused_parameters: bool | None = Field(None, description="search for unused parameters")
    ddp_broadcast_buffers: bool | None = Field(None, description="broadcast buffers each forward pass")
    ddp_static_graph: bool | None = Field(None, description="declare the graph to be static")


_REASONS = {
    "data.held_out is evaluated once, after training": (
        *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_accumulation_steps"),
        *(
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "per_device_eval_batch_size",
            "do_eval",
            "do_predict",
        ),
        *(
            "prediction_loss_only",
            "include_for_metrics",
            "batch_eval_metrics",
            "bf16_full_eval",
            "fp16_full_eval",
        ),
        *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "label_names"),
    ),
    "use `tide distill` and its --resume": ("do_train", "resume_from_checkpoint"),
    "--resume restores the whole state": (
        *("save_only_model", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
        "enable_jit_checkpoint",
    ),
    "the objective computes and normalises the loss": (
        *("label_smoothing_factor", "average_tokens_across_devices", "neftune_noise_alpha", "use_cache"),
        *(
            "use_liger_kernel",
            "liger_kernel_config",
            "include_num_input_tokens_seen",
            "logging_nan_inf_filter",
        ),
    ),
    "batches are made of rows of similar length": (
        *("train_sampling_strategy", "length_column_name", "auto_find_batch_size", "remove_unused_columns"),
        "dataloader_pin_memory",
    ),
    "set training.precision": ("fp16",),
    "set training.gradient_checkpointing": (
        *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"),
    ),
    "set training.seed": ("data_seed",),
    "set data.num_workers": ("dataloader_num_workers",),
    "the step is not compiled": ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    "start with `accelerate launch`, which sets it": (
        *("fsdp", "fsdp_config", "deepspeed", "accelerator_config", "parallelism_config", "local_rank"),
        "use_cpu",
    ),
    "recipe.yaml is published with the student; set the variable HF_TOKEN": ("hub_token",),
    "summary.json has time and memory": ("skip_memory_metrics", "debug"),
}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names}

"""Names that people type for a key, or in vain: aliases, and keys of transformers that are refused."""

from __future__ import annotations

from typing import NamedTuple


class Alias(NamedTuple):
    """The key of the same section that an alias stands for, and its words for true and false."""

    key: str
    if_true: object = True
    if_false: object = False

    def value(self, given: object) -> object:
        """The value under `key`."""
        return (self.if_true if given else self.if_false) if isinstance(given, bool) else given


ALIASES = {
    "training.lr": Alias("learning_rate"),
    "training.steps": Alias("max_steps"),
    "training.epochs": Alias("num_train_epochs"),
    "training.per_device_train_batch_size": Alias("batch_size"),
    "training.accumulation_steps": Alias("gradient_accumulation_steps"),
    "training.warmup": Alias("warmup_ratio"),
    "training.lr_scheduler_type": Alias("lr_scheduler"),
    "training.grad_clip": Alias("max_grad_norm"),
    "training.optimizer": Alias("optim"),
    "training.bf16": Alias("precision", "bf16", "fp32"),
    "data.max_seq_length": Alias("max_length"),
    "student.model_name_or_path": Alias("path"),
    "student.torch_dtype": Alias("dtype"),
    "teacher.model_name_or_path": Alias("path"),
    "teacher.torch_dtype": Alias("dtype"),
}


def alias_at(path: tuple[str, ...]) -> Alias:
    """The alias at a path of keys; any other key stands for itself."""
    return ALIASES.get(".".join(path), Alias(path[-1]))


_HELD_OUT = "data.held_out is evaluated once, after training"
_LAUNCH = "start with `accelerate launch`, which sets it"
REFUSED = {
    "training.eval_strategy": _HELD_OUT,
    "training.eval_steps": _HELD_OUT,
    "training.per_device_eval_batch_size": _HELD_OUT,
    "training.load_best_model_at_end": _HELD_OUT,
    "training.metric_for_best_model": _HELD_OUT,
    "training.resume_from_checkpoint": "use `tide distill --resume`",
    "training.fp16": "set training.precision",
    "training.gradient_checkpointing_kwargs": "set training.gradient_checkpointing",
    "training.data_seed": "set training.seed",
    "training.dataloader_num_workers": "set data.num_workers",
    "training.torch_compile": "the step is not compiled",
    "training.label_smoothing_factor": "the objective computes the loss",
    "training.neftune_noise_alpha": "the objective computes the loss",
    "training.fsdp": _LAUNCH,
    "training.deepspeed": _LAUNCH,
    "training.hub_token": "recipe.yaml is published with the student; set the variable HF_TOKEN",
}

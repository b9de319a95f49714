"""Names that people type for a key, or in vain: aliases, and keys of transformers that are refused."""

from __future__ import annotations

# An alias to the key of the same section.
ALIASES = {
    "training.lr": "learning_rate",
    "training.steps": "max_steps",
    "training.epochs": "num_train_epochs",
    "training.per_device_train_batch_size": "batch_size",
    "training.accumulation_steps": "gradient_accumulation_steps",
    "training.warmup": "warmup_ratio",
    "training.lr_scheduler_type": "lr_scheduler",
    "training.grad_clip": "max_grad_norm",
    "training.optimizer": "optim",
    "training.bf16": "precision",  # true is bf16, false fp32
    "data.max_seq_length": "max_length",
    "student.model_name_or_path": "path",
    "student.torch_dtype": "dtype",
    "teacher.model_name_or_path": "path",
    "teacher.torch_dtype": "dtype",
}


_HELD_OUT = "data.held_out is evaluated before and after training, and every training.eval_steps"
_LAUNCH = "start with `accelerate launch`, which sets it"
REFUSED = {
    "training.eval_strategy": _HELD_OUT,
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

"""A thin Trainer of transformers around the distillation step.

It adds noise from a generator per micro-step (a resumed run draws the same), metrics per term, and
checkpoints that hold the student as `save_pretrained` writes it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from tide.data import LengthBuckets, ShardedExamples
from tide.masking import keyed_generator
from tide.models import load_model, without_progress_bars
from tide.training.metrics import MetricMeans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from tide.batch import Example, Layouts, NoisedBatch
    from tide.data import Collator
    from tide.masking import Noiser
    from tide.training.step import DistillationModule


class DistillationTrainer(Trainer):  # type: ignore[misc]
    """Trains the student of a `DistillationModule`.

    Args:
        module: student, teacher and objective.
        noiser: draws times, masks and the teacher's views.
        collator: examples to a batch.
        kwargs: the Trainer's own.
    """

    def __init__(
        self, module: DistillationModule, *, noiser: Noiser, collator: Collator, **kwargs: Any
    ) -> None:
        super().__init__(model=module, data_collator=partial(_in_dictionary, collator), **kwargs)
        self.module = module
        self.noiser = noiser
        # The objective normalises each micro-batch; the Trainer averages over accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.metric_means = MetricMeans()
        self._num_tokens = 0
        self._noise_position = (-1, 0)
        # transformers places a teacher that has a device of its own, or is quantized.
        if module.teacher is not None and getattr(module.teacher, "hf_device_map", None) is None:
            module.teacher.to(self.args.device)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train. A checkpoint of the last step is only loaded, since the Trainer would add a step."""
        self.metric_means = MetricMeans()  # starts its clock
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(f"{resume_from_checkpoint}/trainer_state.json")
            if state.global_step >= state.max_steps:
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _get_train_sampler(self, train_dataset: Sequence[Example] | None = None) -> LengthBuckets:
        examples = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(examples, ShardedExamples):
            lengths = examples.lengths.tolist()
        else:
            lengths = [len(example.student.token_ids) for example in examples]
        batch_size = self.args.train_batch_size * self.args.world_size
        return LengthBuckets(lengths, batch_size=batch_size, seed=self.args.data_seed)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: tuple[NoisedBatch, Layouts],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Run one step through the (possibly wrapped) module; metrics stay on the device."""
        noised, layouts = inputs
        loss, metrics = model(noised, layouts, self.state.global_step / max(self.state.max_steps, 1))
        self.metric_means.add(metrics | layouts.metrics(len(noised.t)), self._num_tokens)
        return (loss, metrics) if return_outputs else loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> tuple[NoisedBatch, Layouts]:
        """Noise the batch and lay it out on the host, then move both."""
        batch = inputs["batch"]
        self._num_tokens = int(batch.student.valid.sum())
        noised = self.noiser(batch, self._noise_generator())
        layouts = self.module.layouts(noised)
        return noised.on_device(self.args.device), layouts.on_device(self.args.device)

    def _noise_generator(self) -> torch.Generator:
        """Keyed by (seed, step, micro-step, rank) alone, so that resuming changes nothing."""
        (earlier, micro_step), step = self._noise_position, self.state.global_step
        self._noise_position = (step, micro_step + 1 if step == earlier else 0)
        return keyed_generator(self.args.seed, *self._noise_position, self.args.process_index)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the terms' metrics to the training logs; stop at a loss that is not finite."""
        if "loss" in logs:
            logs |= self.metric_means.pop(lambda means: self.accelerator.reduce(means, reduction="mean"))
            if not math.isfinite(logs["loss"]):
                raise ValueError(
                    f"DistillationTrainer: the loss is {logs['loss']} at step {self.state.global_step}. "
                    "Lower training.learning_rate, or check the data for rows that the models cannot read."
                )
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        weights = None
        if state_dict is not None:
            weights = {key.removeprefix("student."): value for key, value in state_dict.items()}
        folder = output_dir or self.args.output_dir
        with without_progress_bars():
            # One file, which `_load_from_checkpoint` reads back.
            self.module.student.save_pretrained(folder, state_dict=weights, max_shard_size="1TB")
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        try:
            # Weights may be saved under the names of the model's makers, which `load_model` translates.
            weights = load_model(resume_from_checkpoint, trainable=True).state_dict()
            self.module.student.load_state_dict(weights)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"DistillationTrainer: the weights in {resume_from_checkpoint!r} are not this student's "
                f"({reason}). Resume with the recipe of that run."
            ) from error


def _in_dictionary(collator: Collator, examples: Sequence[Example]) -> dict[str, Any]:
    """The batch in a dictionary, the only container that the Trainer passes on untouched."""
    return {"batch": collator(examples)}

"""A thin Trainer of transformers around the distillation step.

It adds noise from a generator per micro-step (a resumed run draws the same), metrics per term, and
checkpoints that hold the student as `save_pretrained` writes it.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from tide.data import LengthBuckets, ShardedExamples
from tide.disk import ASIDE, installed_in
from tide.masking import keyed_generator
from tide.models import load_model, without_progress_bars
from tide.training.checkpoints import publish, rotate
from tide.training.metrics import MetricMeans, NonFinite, non_finite_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
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
        evaluation: figures of the student on held-out text, every `eval_steps`.
        kwargs: the Trainer's own.
    """

    def __init__(
        self,
        module: DistillationModule,
        *,
        noiser: Noiser,
        collator: Collator,
        evaluation: Callable[[], dict[str, float]] = dict,
        **kwargs: Any,
    ) -> None:
        super().__init__(model=module, data_collator=partial(_in_dictionary, collator), **kwargs)
        self.module = module
        self.noiser = noiser
        self._evaluation = evaluation
        # The objective normalises each micro-batch; the Trainer averages over accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.metric_means = MetricMeans()
        self.non_finite = NonFinite(self.args.device)
        self._num_tokens = 0
        self._noise_position = (-1, 0)
        module.place_teacher(self.args.device)

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train. A checkpoint of the last step is only loaded, since the Trainer would add a step.

        Raises:
            ValueError: a weight, loss or gradient is NaN or infinite; nothing is saved after it.
        """
        self.metric_means = MetricMeans()  # starts its clock
        for role, network in (("student", self.module.student), ("teacher", self.module.teacher)):
            if network is not None and (names := non_finite_weights(network)):
                raise ValueError(
                    f"DistillationTrainer: the {role}'s weights in {network.name_or_path!r} are NaN or "
                    f"infinite ({_listed(names)}). Copy, download or train that model again."
                )
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(f"{resume_from_checkpoint}/trainer_state.json")
            # A resumed run may be longer. The number of steps in some epochs is the state's.
            if state.global_step >= (self.args.max_steps if self.args.max_steps > 0 else state.max_steps):
                self._load_from_checkpoint(resume_from_checkpoint)
                self.state = state
                return TrainOutput(state.global_step, 0.0, {})
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self._check_finite()
        return output

    def _get_train_sampler(self, train_dataset: Sequence[Example] | None = None) -> LengthBuckets:
        examples = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(examples, ShardedExamples):
            lengths: Sequence[int] | np.ndarray = examples.lengths
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
        loss, metrics, finite = model(noised, layouts, self.state.global_step / max(self.state.max_steps, 1))
        self.non_finite.watch({"loss": loss.detach(), **metrics}, self.state.global_step + 1, (~finite).sum())
        # As the Trainer averages its loss: over a step's micro-batches, of which an epoch's last has fewer.
        share = 1 / self.current_gradient_accumulation_steps
        self.metric_means.add(metrics | layouts.metrics(len(noised.t)), self._num_tokens, share)
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

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        if norm is not None:
            value = torch.as_tensor(norm, device=self.args.device)
            self.non_finite.watch({"gradient": value}, self.state.global_step + 1)
        return norm

    def _check_finite(self) -> None:
        """Stop all ranks if a watched value or a weight is not finite on one. Waits for the device.

        Raises:
            ValueError: names the first step, the values and the weights.
        """
        weights = non_finite_weights(self.module.student)
        found = self.non_finite.first(len(weights), self.accelerator.gather)
        if found is None:
            return
        what = f"{', '.join(found.names)} NaN or infinite at step {found.step}" if found.names else ""
        if found.num_examples:
            what += f", in {found.num_examples} of its examples"
        if weights:
            what += (
                f"{what and '; '}weights NaN or infinite by step {self.state.global_step}: {_listed(weights)}"
            )
        raise ValueError(
            f"DistillationTrainer: {what}. Nothing was saved after it. Lower "
            "training.learning_rate, or check the data for rows that the models cannot read."
        )

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the student; the Trainer calls it every `eval_steps`."""
        figures = {f"eval_{name}": value for name, value in self._evaluation().items()}
        self.log(figures)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the terms' metrics to the training logs; stop at a value that is not finite."""
        if "loss" in logs:
            self._check_finite()
            logs |= self.metric_means.pop(lambda means: self.accelerator.reduce(means, reduction="mean"))
        super().log(logs, start_time)

    def _get_output_dir(self, trial: Any) -> str:
        # Where the Trainer writes checkpoints, and looks for those that it may remove.
        return str(Path(self.args.output_dir) / ASIDE)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        self._check_finite()
        name, aside = f"checkpoint-{self.state.global_step}", Path(self._get_output_dir(trial))
        checkpoint = Path(self.args.output_dir) / name
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                publish(aside / name, checkpoint)
                rotate(checkpoint, self.args.save_total_limit)
        finally:
            if self.args.should_save:
                shutil.rmtree(aside, ignore_errors=True)
        if self.args.push_to_hub:
            super()._push_from_checkpoint(str(checkpoint))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The Trainer would upload, in the background, what is renamed afterwards.
        pass

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        weights = None
        if state_dict is not None:
            weights = {key.removeprefix("student."): value for key, value in state_dict.items()}
        with without_progress_bars(), installed_in(Path(output_dir or self.args.output_dir)) as folder:
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


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

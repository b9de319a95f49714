"""Arguments of the hidden-in divergences, checked and normalised."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from tide_kernels._shared.agreement import refused_by_all
from tide_kernels._shared.checks import (
    accumulation_dtype,
    check_frozen,
    check_ids,
    check_no_tangent,
    check_same_length,
    check_temperature,
    check_tensor,
    check_vocab,
    row_lambda,
)
from tide_kernels._shared.head import HeadOptions, cut_to_vocabulary, head_logits
from tide_kernels._shared.head_checks import (
    autocast_dtype_of,
    check_head,
    check_head_options,
    check_logits_dtype,
    linear_backend,
    needed_gradients,
)
from tide_kernels._shared.vocabulary import shard_extent
from tide_kernels._shared.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int
    from torch import Tensor
    from torch.distributed import ProcessGroup


class LinearArguments(NamedTuple):
    """Tensor arguments: heads as given, per-row values in the accumulation dtype."""

    student_hidden: Float[Tensor, "N ds"]
    student_weight: Float[Tensor, "V ds"]
    student_bias: Float[Tensor, " V"] | None
    teacher_hidden: Float[Tensor, "N dt"]
    teacher_weight: Float[Tensor, "V2 dt"]
    teacher_bias: Float[Tensor, " V2"] | None
    lambda_t: Float[Tensor, " N"]
    labels: Int[Tensor, " N"] | None
    weight: Float[Tensor, " N"]
    ce_weight: Float[Tensor, " N"]

    def logits(self, settings: LinearSettings) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N V"]]:
        """All logits of both sides in the accumulation dtype, differentiable: for the definition."""
        dtype = self.lambda_t.dtype
        student, teacher = (
            head_logits(*side, options, dtype).to(settings.logits_dtype).to(dtype)
            for side, options in self.sides(settings)
        )
        return student, teacher

    def sides(
        self, settings: LinearSettings, vocab: int | None = None
    ) -> Iterator[tuple[tuple[Tensor, Tensor, Tensor | None], HeadOptions]]:
        """((hidden, weight, bias) cut to `vocab` entries, options) of student, then teacher.

        Without `vocab`, all entries in use.
        """
        size = settings.vocab if vocab is None else vocab
        student, teacher = settings.head_options()
        for (hidden, weight, bias), options in ((self[:3], student), (self[3:6], teacher)):
            cut = None if bias is None else cut_to_vocabulary(bias, size)
            yield (hidden, cut_to_vocabulary(weight, size), cut), options


class LinearSettings(NamedTuple):
    """Other arguments, in the order of the op's schema."""

    temperature: float
    student_logit_scale: float
    student_softcap: float  # 0 for none
    teacher_logit_scale: float
    teacher_softcap: float
    vocab: int  # entries in use, over all processes
    workspace_bytes: int
    logits_dtype: torch.dtype
    autocast_dtype: torch.dtype | None  # None if autocast is off
    vocab_group: str  # name of the process group that shares the heads; empty for none
    backend: str
    needed: list[bool]  # gradients of student_hidden, student_weight, student_bias

    def head_options(self) -> tuple[HeadOptions, HeadOptions]:
        """Options of the student's and the teacher's head."""
        return (
            HeadOptions(self.student_logit_scale, self.student_softcap),
            HeadOptions(self.teacher_logit_scale, self.teacher_softcap),
        )


@refused_by_all
def check_linear_divergence(
    function: str,
    student_hidden: Float[Tensor, "N ds"],
    student_weight: Float[Tensor, "V ds"],
    teacher_hidden: Float[Tensor, "N dt"],
    teacher_weight: Float[Tensor, "V2 dt"],
    lambda_t: float | Float[Tensor, " N"],
    *,
    temperature: float,
    labels: Int[Tensor, " N"] | None,
    weight: Float[Tensor, " N"] | None,
    ce_weight: Float[Tensor, " N"] | None,
    student_bias: Float[Tensor, " V"] | None,
    teacher_bias: Float[Tensor, " V2"] | None,
    student_logit_scale: float,
    teacher_logit_scale: float,
    student_softcap: float | None,
    teacher_softcap: float | None,
    vocab_size: int | None,
    logits_dtype: torch.dtype | None,
    workspace_bytes: int | None,
    vocab_group: ProcessGroup | None,
    backend: str,
) -> tuple[LinearArguments, LinearSettings]:
    """Check and normalise the arguments of a hidden-in divergence.

    Raises:
        ValueError: as documented at `linear_interpolated_kl`.
    """
    check_head(function, "student_", student_hidden, student_weight, student_bias, frozen=False)
    check_head(function, "teacher_", teacher_hidden, teacher_weight, teacher_bias, frozen=True)
    num_rows, device = student_hidden.shape[0], student_hidden.device
    check_same_length(function, "teacher_hidden", teacher_hidden, num_rows, device)
    widths = (student_weight.shape[0], teacher_weight.shape[0])
    if vocab_group is None:
        vocab = check_vocab(function, vocab_size, *widths)
    else:
        vocab = shard_extent(function, check_vocab(function, None, *widths), vocab_size, vocab_group)
    if ce_weight is not None and labels is None:
        raise ValueError(f"{function}: ce_weight needs labels; pass labels= or omit ce_weight.")
    heads = (student_hidden, student_weight, teacher_hidden, teacher_weight)
    dtype = accumulation_dtype(*heads)
    student = check_head_options(function, "student_", student_logit_scale, student_softcap)
    teacher = check_head_options(function, "teacher_", teacher_logit_scale, teacher_softcap)
    arguments = LinearArguments(
        student_hidden,
        student_weight,
        student_bias,
        teacher_hidden,
        teacher_weight,
        teacher_bias,
        row_lambda(function, lambda_t, num_rows, dtype, device),
        None if labels is None else check_ids(function, "labels", labels, num_rows, device),
        _row_weight(function, "weight", weight, num_rows, dtype, device),
        _row_weight(function, "ce_weight", ce_weight, num_rows, dtype, device),
    )
    settings = LinearSettings(
        check_temperature(function, temperature),
        *student,
        *teacher,
        vocab,
        workspace(function, workspace_bytes, device),
        check_logits_dtype(function, logits_dtype, dtype, *heads),
        autocast_dtype_of(device),
        "" if vocab_group is None else vocab_group.group_name,
        linear_backend(function, backend, device, dtype, grouped=vocab_group is not None),
        needed_gradients(student_hidden, student_weight, student_bias),
    )
    check_no_tangent(function, settings.backend, arguments._asdict())
    return arguments, settings


def _row_weight(
    function: str,
    name: str,
    value: Float[Tensor, " N"] | None,
    num_rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, " N"]:
    if value is None:
        return torch.ones(num_rows, dtype=dtype, device=device)
    check_tensor(function, name, value)
    check_frozen(function, name, value)
    if value.dim() != 1:
        raise ValueError(f"{function}: {name} must be [N], one factor per row; got {tuple(value.shape)}.")
    check_same_length(function, name, value, num_rows, device)
    return value.to(dtype)

"""The whole step against models run sequence by sequence, view by view, with all logits, in fp64."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest
import torch

from tests.flow.recipes import tiny_recipe, trainer_of
from tests.training.recording import recorded
from tide.config import MaskingConfig
from tide.methods import METHODS
from tide_kernels.divergence.reference import interpolated_kl_reference

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel

    from tests.tiny import TinyCheckpoints
    from tide.batch import Batch, NoisedBatch, NoisedTokens

BLOCK, PROGRESS = 8, 0.5


def sees(length: int) -> Tensor:
    """Who attends to whom in [x_t | x_0], from the definition."""
    allowed = torch.zeros(2 * length, 2 * length, dtype=torch.bool)
    for query in range(2 * length):
        for key in range(2 * length):
            query_block, key_block = query % length // BLOCK, key % length // BLOCK
            if query < length:
                same = key < length and key_block == query_block
                allowed[query, key] = same or (key >= length and key_block < query_block)
            else:
                allowed[query, key] = key >= length and key_block <= query_block
    return allowed


def masked_logits(model: PreTrainedModel, tokens: NoisedTokens) -> Float[Tensor, "N V"]:
    """Logits of every row, from a run of its own view of its own sequence, without padding."""
    runs: dict[tuple[int, int], Tensor] = {}
    logits = []
    for row, view in zip(tokens.rows.tolist(), tokens.row_views.tolist(), strict=True):
        sequence, position = divmod(row, tokens.token_ids.shape[1])
        if (sequence, view) not in runs:
            length = int(tokens.valid[sequence].sum())
            ids = torch.cat([tokens.views[sequence, view, :length], tokens.token_ids[sequence, :length]])
            positions = torch.arange(length).repeat(2)
            out = model(
                input_ids=ids[None], position_ids=positions[None], attention_mask=sees(length)[None, None]
            )
            runs[sequence, view] = out.logits[0]
        logits.append(runs[sequence, view][position])
    return torch.stack(logits)


def token_log_p(logits: Tensor, tokens: NoisedTokens) -> Float[Tensor, " N"]:
    return torch.log_softmax(logits, dim=-1)[torch.arange(len(tokens.rows)), tokens.labels]


def expected_loss(
    method: str, student: PreTrainedModel, teacher: PreTrainedModel | None, noised: NoisedBatch
) -> Tensor:
    """Cross-entropy with weight 1/t over the loss mask, and the method's term, from the logits."""
    t, length = noised.t.double(), noised.loss_mask.shape[1]
    logits = masked_logits(student, noised.student)
    log_p, sequence = token_log_p(logits, noised.student), noised.student.rows // length
    loss = -(log_p / t[sequence]).sum() / noised.loss_mask.sum()
    if method == "none":
        return loss
    with torch.no_grad():
        teacher_logits = masked_logits(teacher, noised.teacher)
    lambda_t = (0.1 + 0.8 * PROGRESS) * (1 - t)  # The cosine is half way at one half.
    weight = torch.exp(-((t - 0.5) ** 2) / (2 * 0.15**2))
    if method == "tide_shared":
        kl, _ = interpolated_kl_reference(logits, teacher_logits, lambda_t[sequence], 2.0)
        return loss + 4 * (weight[sequence] * kl).mean()
    teacher_log_p = token_log_p(teacher_logits, noised.teacher)
    values = []
    for row, chunk in noised.chunk_mask.nonzero().tolist():
        p = []
        for side, log_ps, chunks in (
            (noised.student, log_p, noised.student_chunks),
            (noised.teacher, teacher_log_p, noised.teacher_chunks),
        ):
            of_chunk = (chunks.flatten()[side.rows] == chunk) & (side.rows // chunks.shape[1] == row)
            assert int(of_chunk.sum()) == int((chunks[row] == chunk).sum()), "a chunk that counts is whole"
            p.append((log_ps[of_chunk].sum() / 2).exp().clamp(1e-7, 1 - 1e-7))
        if method == "tide_cross":
            values.append(-(p[0] * p[1].log() + (1 - p[0]) * (1 - p[1]).log()))
            continue
        target = ((1 - lambda_t[row]) * p[0] + lambda_t[row] * p[1]).detach()
        values.append(-weight[row] * (target * p[0].log() + (1 - target) * (1 - p[0]).log()))
    return loss + torch.stack(values).mean()


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_of_every_method(tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str) -> None:
    """The loss is the weighted sum of the two terms, which the next step sees from other weights."""
    recipe = tiny_recipe(tiny_checkpoints, tmp_path, method, max_steps=2)
    given = {"ce_weight": 0.7, "distill_weight": 0.3}
    trainer = trainer_of(recipe.replace(objective=given))
    others = list(given) if METHODS[method].has_teacher else ["distill_weight"]
    alone = [trainer_of(recipe.replace(objective={**given, other: 0.0})) for other in others]
    record = recorded(trainer)
    assert len(record.outputs) == 2
    losses = [float(out.loss.detach()) for out in record.outputs]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses) and losses[0] != losses[1]
    for gradients in record.gradients:
        assert all(bool(g.isfinite().all()) for g in gradients.values())
        assert any(bool(g.any()) for g in gradients.values())
    # Untrained, as the first step saw them.
    noised = record.noised[0]
    terms = [float(one.module(noised, one.module.layouts(noised), 0.0).loss.detach()) for one in alone]
    assert sum(terms) == pytest.approx(losses[0], rel=1e-5)
    assert all(term > 0 for term in terms)


@pytest.mark.parametrize("method", ["none", "tide_shared", "tide_cross", "tide_shared_chunks"])
def test_the_step_is_its_definition(tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str) -> None:
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, method))
    examples = [trainer.train_dataset[index] for index in (0, 1, 6)]
    batch = trainer.data_collator(examples)["batch"]
    assert not batch.student.valid.all(), "one sequence is shorter"
    noised = trainer.noiser(batch, torch.Generator().manual_seed(5), torch.tensor([0.4, 0.55, 0.7]))
    if METHODS[method].comp_demo:
        assert noised.teacher.views.shape[1] == 2 and set(noised.teacher.row_views.tolist()) == {0, 1}
    if METHODS[method].across_tokenizers:
        assert int(noised.chunk_mask.sum()) > 3

    out = trainer.module(noised, trainer.module.layouts(noised), PROGRESS)
    out.loss.backward()
    gradients = {
        name: parameter.grad.double() for name, parameter in trainer.module.student.named_parameters()
    }

    exact = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, method)).module
    teacher = None if exact.teacher is None else exact.teacher.double()
    expected = expected_loss(method, exact.student.double(), teacher, noised)
    expected.backward()
    assert float(out.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, parameter in exact.student.named_parameters():
        worst = float((gradients[name] - parameter.grad).abs().max() / parameter.grad.abs().max())
        assert worst < 1e-4 and math.isfinite(worst), f"{name}: {worst:.1e} of its largest entry"


def with_every_hidden_row(noised: NoisedBatch, batch: Batch) -> NoisedBatch:
    """Ask the teacher for every hidden token, in the view that predicts it where it is asked already."""
    tokens = noised.teacher
    hidden = tokens.views != tokens.token_ids[:, None]
    view = hidden.long().argmax(1).flatten().index_put((tokens.rows,), tokens.row_views)
    rows = hidden.any(1).flatten().nonzero().flatten()
    teacher = dataclasses.replace(tokens, rows=rows, row_views=view[rows], valid=batch.teacher.valid)
    return dataclasses.replace(noised, teacher=teacher)


@pytest.mark.parametrize("rates", ["clip", "skip", "ignore"])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.across_tokenizers])
def test_rows_of_chunks_that_do_not_count_are_read_by_nobody(
    tiny_checkpoints: TinyCheckpoints, tmp_path: Path, method: str, rates: str
) -> None:
    """Loss and gradients are those of a teacher that is asked for every hidden token."""
    trainer = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path, method))
    teacher = dataclasses.replace(trainer.noiser.teacher, rates=(0.25, 0.6))
    noiser = dataclasses.replace(
        trainer.noiser, masking=MaskingConfig(block_size=BLOCK, teacher_rates=rates), teacher=teacher
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(4)])["batch"]
    noised = noiser(batch, torch.Generator().manual_seed(5), torch.tensor([0.1, 0.4, 0.55, 0.9]))
    every = with_every_hidden_row(noised, batch)
    assert 0 < len(noised.teacher.rows) < len(every.teacher.rows)
    results = []
    for asked in (noised, every):
        trainer.module.zero_grad()
        out = trainer.module(asked, trainer.module.layouts(asked), PROGRESS)
        out.loss.backward()
        gradients = [parameter.grad.clone() for parameter in trainer.module.student.parameters()]
        results.append((out.loss.detach(), out.metrics, gradients))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


def test_a_teacher_that_transformers_placed_lends_its_head(tiny_checkpoints, tmp_path):
    module = trainer_of(tiny_recipe(tiny_checkpoints, tmp_path / "run", "tidal")).module
    module.teacher.hf_device_map = {"": "cpu"}
    module.place_teacher(torch.device("meta"))
    assert module.teacher.device.type == "cpu"
    assert module._teacher.head.weight.is_meta
    del module.teacher.hf_device_map
    module.place_teacher(torch.device("cpu"))
    assert module._teacher.head.weight is module.teacher.get_output_embeddings().weight

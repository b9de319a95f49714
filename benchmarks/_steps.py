"""Work of ``benchmarks.distillation_step``: random models, a batch, and a TIDE-Shared step on two sides.

``tide``: layouts, module and objective as the Trainer calls them. ``official``: as the published code does,
the student and, for CompDemo, the teacher twice on a padded ``[x_t | x_0]``, with heads on every row, eager
formulas and a dense mask. Needs torch and transformers.

Legend: B sequences of L tokens, N of them masked, V vocabulary entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional
from transformers import Qwen3Config, Qwen3ForCausalLM

from benchmarks.official_formulas import eager_tidal
from tide.batch import Batch, TokenBatch
from tide.contract import Contract
from tide.losses import lambda_schedule, timestep_weight
from tide.losses.objective import Objective
from tide.masking import Noiser, keyed_generator
from tide.methods import METHODS
from tide.models import DiffusionModel
from tide.training import DistillationModule

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from tide.batch import Layouts, NoisedBatch

SIDES = ("official", "tide")
METHOD = METHODS["tide_shared"]
PROGRESS = 0.5
BLOCK_SIZE = 32
# The defaults of `masking:` and `objective:`, in plain values: tide.config needs pydantic, which `make gpu`
# does not ask for.
MASKING: Any = SimpleNamespace(
    block_size=BLOCK_SIZE,
    time_epsilon=1e-3,
    student_masking="tokens",
    consistent_weight="unbiased",
    teacher_rates="clip",
    demo_ratio=0.5,
)
OBJECTIVE: Any = SimpleNamespace(
    temperature=2.0,
    chunk_temperature=2.0,
    ce_weight=1.0,
    distill_weight=1.0,
    lambda_init=0.1,
    lambda_max=0.9,
    lambda_decay="cosine",
    lambda_axis=None,
    timestep_weight=None,
    chunk_eps=1e-7,
    chunk_divergence="bce",
    ce_normalizer="token",
)


class Network(NamedTuple):
    """Sizes of a Qwen3 network; its feed-forward layers are three times as wide as the hidden states."""

    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int


class Models(NamedTuple):
    """A pair of models and the length of their texts; bf16: as a teacher's weights, and by autocast."""

    student: Network
    teacher: Network
    vocab: int
    length: int
    bf16: bool


MODELS = {
    "small": Models(Network(4, 256, 4, 2, 64), Network(8, 512, 8, 4, 64), 151_936, 512, bf16=False),
    # Qwen3-0.6B and WeDLM-8B.
    "real": Models(Network(28, 1024, 16, 8, 128), Network(36, 4096, 32, 8, 128), 151_936, 512, bf16=True),
    "tiny": Models(Network(2, 32, 2, 1, 16), Network(2, 48, 2, 1, 16), 300, 128, bf16=False),
}


@dataclass(frozen=True)
class Work:
    """``steps[side]()`` runs forward and backward and returns the loss; gradients are in ``parameters``."""

    steps: dict[str, Callable[[], Tensor]]
    parameters: list[Tensor]
    noised: NoisedBatch
    layouts: Layouts

    def clear(self) -> None:
        """Drop the gradients, so that the next step writes them afresh."""
        for parameter in self.parameters:
            parameter.grad = None


def build(models: Models, batch_size: int, t: float, device: torch.device, attention: str = "sdpa") -> Work:
    """Create models and a batch at time t, whose prompts are half of the text, and the steps of both sides.

    The batch is on the host. attention: of the side ``tide``, in transformers.
    """
    contract = Contract(mask_id=models.vocab - 1, block_size=BLOCK_SIZE)
    student = DiffusionModel(_network(models, models.student, True, device), contract)
    teacher = DiffusionModel(_network(models, models.teacher, False, device), contract)
    noised = noised_batch(models, contract, batch_size, t)
    module = DistillationModule(student, teacher, Objective(METHOD, OBJECTIVE))

    def tide() -> Tensor:
        layouts = module.layouts(noised).on_device(device)
        loss: Tensor = module(noised.on_device(device), layouts, PROGRESS).loss
        return loss

    def official() -> Tensor:
        return official_loss(student, teacher, noised.on_device(device))

    def step(side: Callable[[], Tensor], attention: str) -> Callable[[], Tensor]:
        def run() -> Tensor:
            for model in (student, teacher):
                model.network.set_attn_implementation(attention)
            with torch.autocast(device.type, torch.bfloat16, enabled=models.bf16):
                loss = side()
            loss.backward()
            return loss.detach()

        return run

    steps = {"official": step(official, "sdpa"), "tide": step(tide, attention)}
    return Work(steps, list(student.network.parameters()), noised, module.layouts(noised))


def noised_batch(models: Models, contract: Contract, batch_size: int, t: float) -> NoisedBatch:
    """Random texts of full length, noised for both sides; the second half of each is the answer."""
    generator = keyed_generator(0)
    shape = (batch_size, models.length)
    answer = (torch.arange(models.length) >= models.length // 2).expand(shape)
    tokens = TokenBatch(
        token_ids=torch.randint(models.vocab - 1, shape, generator=generator),
        valid=torch.ones(shape, dtype=torch.bool),
        loss_mask=answer,
        chunks=torch.full(shape, -1),
    )
    batch = Batch(tokens, tokens, torch.zeros((batch_size, 0), dtype=torch.bool))
    return Noiser(MASKING, METHOD, contract, contract)(batch, generator, torch.full((batch_size,), t))


def official_loss(student: DiffusionModel, teacher: DiffusionModel, noised: NoisedBatch) -> Float[Tensor, ""]:
    """The loss of TIDE-Shared, computed as in the published code."""
    tokens = noised.student
    x_t, x_0 = tokens.views[:, 0], tokens.token_ids
    masked = x_t != x_0
    logits = _doubled_logits(student, x_t, x_0)
    teacher_logits = _merged_teacher_logits(teacher, noised)
    weight = noised.diffusion_weight[:, None].expand(x_0.shape)[masked]
    cross_entropy = functional.cross_entropy(logits[masked], x_0[masked], reduction="none")
    lambda_t = lambda_schedule(noised.t, PROGRESS)
    kl = eager_tidal(
        logits.flatten(0, 1),
        teacher_logits.flatten(0, 1),
        masked.flatten(),
        lambda_t.repeat_interleave(x_0.shape[1]),
        OBJECTIVE.temperature,
        timestep_weight(noised.t, METHOD.timestep_weight).repeat_interleave(x_0.shape[1]),
    )
    return (cross_entropy * weight).sum() / noised.loss_mask.sum() + kl


@torch.no_grad()
def _merged_teacher_logits(teacher: DiffusionModel, noised: NoisedBatch) -> Float[Tensor, "B L V"]:
    """One pass for each view of CompDemo; every row from the view that predicts it."""
    tokens = noised.teacher
    assert tokens is not None
    views = [_doubled_logits(teacher, view, tokens.token_ids) for view in tokens.views.unbind(1)]
    by_second = torch.zeros_like(tokens.valid).flatten().index_put((tokens.rows,), tokens.row_views > 0)
    return torch.where(by_second.view_as(tokens.valid)[..., None], views[1], views[0])


def _doubled_logits(
    model: DiffusionModel, x_t: Int[Tensor, "B L"], x_0: Int[Tensor, "B L"]
) -> Float[Tensor, "B L V"]:
    """Logits of x_t, of a head that ran on both halves of `[x_t | x_0]`."""
    length = x_t.shape[1]
    output = model.network(
        input_ids=torch.cat([x_t, x_0], dim=1),
        position_ids=torch.arange(length, device=x_t.device).repeat(2)[None],
        attention_mask=block_diffusion_mask(length, x_t.device),
        use_cache=False,
    )
    logits: Tensor = output.logits[:, :length]
    return logits


def block_diffusion_mask(length: int, device: torch.device) -> Bool[Tensor, "1 1 2L 2L"]:
    """True where a token of `[x_t | x_0]` attends to another: own block of x_t, earlier blocks of x_0; x_0 to
    its own block and earlier ones of x_0.
    """
    block = torch.arange(length, device=device) // BLOCK_SIZE
    same, earlier = block[:, None] == block, block[:, None] > block
    top, bottom = torch.cat([same, earlier], 1), torch.cat([torch.zeros_like(same), same | earlier], 1)
    return torch.cat([top, bottom])[None, None]


def _network(models: Models, sizes: Network, trained: bool, device: torch.device) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=models.vocab,
        num_hidden_layers=sizes.layers,
        hidden_size=sizes.hidden,
        intermediate_size=3 * sizes.hidden,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_value_heads,
        head_dim=sizes.head_dim,
        tie_word_embeddings=trained,
        pad_token_id=None,
        attn_implementation="sdpa",
    )
    torch.manual_seed(sizes.hidden)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if models.bf16 and not trained else torch.float32)
    try:
        with device:
            network = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    # Logits then have a standard deviation of 2: distributions that differ, so that a missing term shows.
    torch.nn.init.normal_(network.get_output_embeddings().weight, std=2 * sizes.hidden**-0.5)
    return network.requires_grad_(trained).train(trained)

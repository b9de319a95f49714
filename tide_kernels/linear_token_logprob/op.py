"""Public op: log-probability of one token per row, from hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tide_kernels._shared.agreement import facts_of, go_on_together, refused_by_all
from tide_kernels._shared.backends import BACKENDS
from tide_kernels._shared.checks import (
    accumulation_dtype,
    check_id_values,
    check_ids,
    check_no_tangent,
    check_vocab,
    floats,
    scalar_tensors,
)
from tide_kernels._shared.first_order import first_order_only
from tide_kernels._shared.head import HeadOptions, cut_to_vocabulary
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
from tide_kernels.linear_token_logprob.chunked import (
    TokenLogprobArguments,
    TokenLogprobCall,
    TokenLogprobSettings,
)
from tide_kernels.linear_token_logprob.reference import linear_token_logprob_reference

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch.distributed import ProcessGroup

NAME = "linear_token_logprob"


def linear_token_logprob(
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    token_ids: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    vocab_size: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    logits_dtype: torch.dtype | None = None,
    workspace_bytes: int | None = None,
    vocab_group: ProcessGroup | None = None,
    backend: str = "auto",
) -> Float[Tensor, " N"]:
    """log softmax of the head's logits at one token per row, T = 1, without holding [N, V] logits.

    Forward keeps a few numbers per row, and the logits if all fit the workspace; otherwise backward
    recomputes them by runs of the vocabulary. Products accumulate in fp32, and logits are not rounded to the
    model's dtype. The triton backend's forward writes no logits.

    Args:
        hidden: [N, d], fp32, bf16 or fp16 (fp64 is computed in fp64). Pass only rows that the loss reads.
        weight: [V, d], the head: trained, frozen, or tied to an embedding.
        token_ids: [N] integers in [0, V).
        bias: [V] or None.
        vocab_size: normalise over the first vocab_size entries; the others get gradient 0.
        logit_scale: factor of hidden @ weight.T + bias.
        softcap: cap c > 0 of the scaled logits, c tanh(logits / c); None for none.
        logits_dtype, vocab_group: as for `linear_interpolated_kl`.
        workspace_bytes: likewise; at least one column.
        backend: "auto" (triton on a CUDA or ROCm GPU, native on a CPU, else torch), "triton", "native" (C
            between products), "torch" (runs of columns) or
            "reference" (all logits at once).

    Returns:
        [N] fp32, nats, at most 0. Differentiable once.

    Raises:
        ValueError: types, shapes, devices or dtypes do not match; an id is outside the vocabulary (checked on
            CPU only); an input has a forward-mode tangent (except with "reference"). With vocab_group, every
            process raises if one does or if their arguments differ.

    Source: TIDE (arXiv 2604.26951), the token log-probabilities that CALM sums over chunks;
    docs/kernels/hidden.md.
    """
    arguments, settings = _checked(
        NAME,
        hidden,
        weight,
        token_ids,
        bias=bias,
        vocab_size=vocab_size,
        logit_scale=logit_scale,
        softcap=softcap,
        logits_dtype=logits_dtype,
        workspace_bytes=workspace_bytes,
        vocab_group=vocab_group,
        backend=backend,
    )
    if settings.backend == "reference":
        return _by_definition(arguments, settings)
    log_p: Tensor = _forward(*arguments, *scalar_tensors(settings))[0]
    return log_p


@refused_by_all
def _checked(
    name: str,
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    token_ids: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None,
    vocab_size: int | None,
    logit_scale: float,
    softcap: float | None,
    logits_dtype: torch.dtype | None,
    workspace_bytes: int | None,
    vocab_group: ProcessGroup | None,
    backend: str,
) -> tuple[TokenLogprobArguments, TokenLogprobSettings]:
    """Check and normalise the arguments; decide if forward keeps the logits."""
    check_head(name, "", hidden, weight, bias, frozen=False)
    dtype, device = accumulation_dtype(hidden, weight), hidden.device
    which = linear_backend(name, backend, device, dtype, grouped=vocab_group is not None)
    if vocab_group is None:
        vocab = check_vocab(name, vocab_size, weight.shape[0])
    else:
        vocab = shard_extent(name, weight.shape[0], vocab_size, vocab_group)
    ids = check_ids(name, "token_ids", token_ids, hidden.shape[0], device)
    arguments = TokenLogprobArguments(hidden, weight, bias, ids)
    check_no_tangent(name, which, arguments._asdict())
    settings = TokenLogprobSettings(
        *check_head_options(name, "", logit_scale, softcap),
        vocab,
        workspace(name, workspace_bytes, device),
        check_logits_dtype(name, logits_dtype, dtype, hidden, weight),
        dtype,
        autocast_dtype_of(device),
        "" if vocab_group is None else vocab_group.group_name,
        which,
        needed_gradients(hidden, weight, bias),
        keep=False,
    )
    # Traced code would have to copy the logits that backward overwrites.
    may_keep = any(settings.needed) and vocab_group is None and not torch.compiler.is_compiling()
    return arguments, settings._replace(keep=may_keep and TokenLogprobCall(arguments, settings).fits())


def _by_definition(arguments: TokenLogprobArguments, settings: TokenLogprobSettings) -> Float[Tensor, " N"]:
    hidden, weight, bias, token_ids = arguments
    if not torch.compiler.is_compiling():
        check_id_values(NAME, "token_ids", token_ids, settings.vocab, None)
    return linear_token_logprob_reference(
        hidden,
        cut_to_vocabulary(weight, settings.vocab),
        None if bias is None else cut_to_vocabulary(bias, settings.vocab),
        token_ids,
        HeadOptions(settings.logit_scale, settings.softcap),
        settings.logits_dtype,
        settings.dtype,
    )


_INPUTS = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor token_ids, Tensor logit_scale, Tensor softcap, "
    "SymInt vocab, SymInt workspace_bytes, ScalarType logits_dtype, ScalarType dtype, "
    "ScalarType? autocast_dtype, str vocab_group, str backend, bool[] needed, bool keep"
)


def _split(inputs: tuple[Any, ...]) -> tuple[TokenLogprobArguments, TokenLogprobSettings, tuple[Any, ...]]:
    """Name the op's flat arguments; also return those that follow."""
    first, second = len(TokenLogprobArguments._fields), len(TokenLogprobSettings._fields)
    return (
        TokenLogprobArguments(*inputs[:first]),
        TokenLogprobSettings(*inputs[first : first + second]),
        inputs[first + second :],
    )


@torch.library.custom_op(
    "tide_kernels::linear_token_logprob",
    mutates_args=(),
    schema=f"({_INPUTS}) -> (Tensor, Tensor, Tensor)",
)
def _forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    arguments, settings, _ = _split(inputs)
    settings = floats(settings)
    go_on_together(
        NAME,
        settings.vocab_group,
        lambda: facts_of(arguments, settings, but=("vocab_group",)),
        lambda: check_id_values(NAME, "token_ids", arguments.token_ids, settings.vocab, None),
    )
    # Autocast would round products to a half dtype.
    with torch.autocast(arguments.hidden.device.type, enabled=False):
        made: tuple[Tensor, Tensor, Tensor] = (
            BACKENDS[NAME][settings.backend].load().forward(arguments, settings)
        )
        return made


@_forward.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    (hidden, *_), settings, _ = _split(inputs)
    num_rows = hidden.shape[0]
    kept = (num_rows, settings.vocab) if settings.keep else (0, 0)
    return (
        hidden.new_empty((num_rows,), dtype=settings.dtype),
        hidden.new_empty((num_rows, 4), dtype=settings.dtype),
        hidden.new_empty(kept, dtype=settings.kept_dtype),
    )


@torch.library.custom_op(
    "tide_kernels::linear_token_logprob_backward",
    mutates_args=("kept",),
    schema=f"({_INPUTS}, Tensor statistics, Tensor(a!) kept, Tensor d_log_p) -> (Tensor, Tensor, Tensor)",
)
def _backward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    arguments, settings, (statistics, kept, d_log_p) = _split(inputs)
    with torch.autocast(arguments.hidden.device.type, enabled=False):
        backward = BACKENDS[NAME][settings.backend].load().backward
        made: tuple[Tensor, Tensor, Tensor] = backward(arguments, floats(settings), statistics, kept, d_log_p)
        return made


@_backward.register_fake
def _(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    (hidden, weight, bias, _), settings, (statistics, *_) = _split(inputs)
    nothing = statistics.new_empty((0,))
    like = (hidden, weight, nothing if bias is None else bias)
    d_hidden, d_weight, d_bias = (
        x.new_empty(x.shape if asked else (0,)) for x, asked in zip(like, settings.needed, strict=True)
    )
    return d_hidden, d_weight, d_bias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    arguments, ctx.settings, _ = _split(inputs)
    # Else torch would allocate zeros the size of the kept logits.
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*arguments, output[1])
    ctx.kept = output[2]


@first_order_only
def _differentiate(ctx: Any, d_log_p: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if d_log_p is None:
        return (None,) * (len(TokenLogprobArguments._fields) + len(TokenLogprobSettings._fields))
    *tensors, statistics = ctx.saved_tensors
    # The first backward overwrites the kept logits; a second one recomputes them.
    kept, ctx.kept = ctx.kept, ctx.kept.new_empty((0, 0))
    if type(kept) is not Tensor:
        # Traced by torch.compile, which would have to copy what is overwritten.
        kept = ctx.kept
    made = _backward(*tensors, *ctx.settings, statistics, kept, d_log_p)
    gradients = (x if asked else None for x, asked in zip(made, ctx.settings.needed, strict=True))
    return *gradients, *(None,) * (1 + len(TokenLogprobSettings._fields))


_forward.register_autograd(_differentiate, setup_context=_setup_context)

"""Hidden-in ops: logits fit the workspace, and nothing is rounded or converted twice.

Mutants that this file kills: the parts of all rows at once, an uncounted gradient of kept logits, a half
dtype between product and scale, hidden states converted in every run of columns, a hidden-state gradient of
the last tile only.
"""

from __future__ import annotations

import importlib
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from tests.kernels.cases import DIVERGENCES, EPS32, linear, linear_token, relative
from tide_kernels import linear_token_logprob
from tide_kernels._shared import head, head_gradient
from tide_kernels._shared.head import Head, HeadOptions, head_logits, product_dtype, rounding_buffer
from tide_kernels._shared.head_checks import linear_backend
from tide_kernels.linear_divergence import rows as linear_divergence_rows

# A multiple of 16 columns, to which rows of logits are padded.
ROWS, VOCAB, WIDTH = 11, 512, 32
token_function = importlib.import_module("tide_kernels.linear_token_logprob.op")
chunked = importlib.import_module("tide_kernels.linear_token_logprob.chunked")
launch = importlib.import_module("tide_kernels.linear_token_logprob.launch")


class Held(TorchDispatchMode):
    """Peak bytes of tensors over the vocabulary, and the number of conversions of hidden states.

    Tensors whose last axis is the model's width, or a few numbers per row, do not count; `fp32_rows` is the
    height of the largest fp32 tensor of the model's width.
    """

    def __init__(self):
        super().__init__()
        self.now = self.most = self.conversions = self.fp32_rows = 0
        self.storages = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, torch.Tensor):
                self._see(x, function)
        return made

    def _see(self, x, function):
        if function is torch.ops.aten._to_copy.default and x.shape == (ROWS, WIDTH):
            self.conversions += 1
        if any(returned.alias_info is not None for returned in function._schema.returns):
            return  # a view or an in-place result
        if x.dim() == 2 and x.shape[1] == WIDTH and x.dtype == torch.float32:
            self.fp32_rows = max(self.fp32_rows, x.shape[0])
        storage = x.untyped_storage()
        if storage._cdata in self.storages or x.dim() < 2 or x.shape[-1] == WIDTH:
            return
        if x.dim() == 2 and x.shape[-1] < 10:
            return
        num_bytes = storage.nbytes()
        self.storages.add(storage._cdata)
        self.now += num_bytes
        self.most = max(self.most, self.now)
        weakref.finalize(x, self._free, storage._cdata, num_bytes)

    def _free(self, key, num_bytes):
        self.storages.discard(key)
        self.now -= num_bytes


def as_on_a_gpu(monkeypatch, *modules):
    """Make the gradient of logits bf16, with products that a CPU must widen."""

    def made(*arguments):
        one = Head(*arguments)
        one.gradient_dtype = torch.bfloat16
        return one

    def widened(a, b, out, *, add=False):
        with _disable_current_modes():
            product = a.float() @ b.float()
            out.copy_(out + product if add else product)

    monkeypatch.setattr(head_gradient, "multiply", widened)
    monkeypatch.setattr(head, "multiply", widened)
    for module in modules:
        monkeypatch.setattr(module, "Head", made)


def checked_token_call(inputs, **options):
    return token_function._checked(
        "linear_token_logprob",
        inputs["hidden"],
        inputs["weight"],
        inputs["token_ids"],
        **{
            "bias": inputs["bias"],
            "vocab_size": None,
            "logit_scale": 0.5,
            "softcap": 7.0,
            "logits_dtype": None,
            "workspace_bytes": None,
            "vocab_group": None,
            "backend": "torch",
        }
        | options,
    )


@pytest.mark.parametrize("columns", [350, 740, 768, 1000, 1500, 5000])
@pytest.mark.parametrize("logits_dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_token_logits_and_their_gradient_fit_the_workspace(backend, logits_dtype, columns, monkeypatch):
    """From a part of one run to all logits kept beside a bf16 gradient."""
    as_on_a_gpu(monkeypatch, chunked)
    inputs, upstream = linear_token.make(ROWS, VOCAB, torch.bfloat16, width=WIDTH)
    # Inputs that the kernel does not take: forward uses runs, too.
    monkeypatch.setattr(launch, "_product_fits", lambda _: False)
    budget = ROWS * 4 * columns
    arguments, settings = checked_token_call(
        inputs, backend=backend, logits_dtype=logits_dtype, workspace_bytes=budget
    )
    if backend == "triton" and logits_dtype == torch.float32:
        assert settings.keep == (columns >= 768), "6 bytes an entry"
    forward = chunked.forward
    if backend == "triton":
        forward = launch.forward
    with torch.no_grad(), Held() as held:
        _, statistics, kept = forward(arguments, settings)
        chunked.backward(arguments, settings, statistics, kept, upstream)
    assert kept.shape == ((ROWS, VOCAB) if settings.keep else (0, 0))
    assert budget // 20 < held.most <= budget


@pytest.mark.parametrize("columns", [350, 1500])
def test_no_fp32_copy_of_the_heads_gradient_exists(columns, monkeypatch):
    """Nor of the head: a CPU computes both in fp32, 64 of 512 entries at a time."""
    inputs, upstream = linear_token.make(ROWS, VOCAB, torch.bfloat16, width=WIDTH)
    arguments, settings = checked_token_call(inputs, workspace_bytes=ROWS * 4 * columns)
    with torch.no_grad():
        _, statistics, kept = chunked.forward(arguments, settings)
        once = (arguments, settings, statistics)
        whole = chunked.backward(*once, kept.clone(), upstream)
        monkeypatch.setattr(head, "CPU_TILE_BYTES", 64 * WIDTH * 4)
        with Held() as held:
            tiles = chunked.backward(*once, kept, upstream)
    assert held.fp32_rows == 64
    d_hidden, d_weight, d_bias = zip(whole, tiles, strict=True)
    assert relative(*d_hidden) < 16 * EPS32
    assert torch.equal(*d_weight) and torch.equal(*d_bias)


@pytest.mark.parametrize("rows_of_parts", [0, 1, 5, 11])
def test_parts_of_the_product_fit_the_workspace(rows_of_parts):
    """Two numbers per row and tile, of as many rows as fit, at least one."""
    inputs, _ = linear_token.make(ROWS, VOCAB, width=WIDTH)
    arguments, settings = checked_token_call(inputs, backend="triton")
    whole, whole_statistics, _ = launch.forward(arguments, settings._replace(keep=False))
    row_bytes = -(-VOCAB // launch.blocks_for("linear_token_logprob_fwd", whole.device).block_v) * 2 * 4
    settings = settings._replace(keep=False, workspace_bytes=max(1, row_bytes * rows_of_parts))
    with torch.no_grad(), Held() as held:
        log_p, statistics, _ = launch.forward(arguments, settings)
    assert held.most == row_bytes * max(1, rows_of_parts)
    assert relative(log_p, whole.double()) < 4 * EPS32
    assert relative(statistics, whole_statistics.double()) < 4 * EPS32


def test_slices_of_rows_are_multiples_of_block_n_if_they_fit():
    assert launch.rows_at_once(1000, 10, 5000) == 384
    assert launch.rows_at_once(300, 10, 5000) == 300
    assert launch.rows_at_once(1000, 10, 1270) == 127
    assert launch.rows_at_once(1000, 10, 3) == 1


@pytest.mark.parametrize("rows", [2, 5])
@pytest.mark.parametrize("logits_dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_logits_of_both_sides_and_the_gradient_fit_the_workspace(divergence, logits_dtype, rows, monkeypatch):
    as_on_a_gpu(monkeypatch, linear_divergence_rows)
    inputs = linear.make(ROWS, VOCAB, torch.bfloat16, widths=(WIDTH, WIDTH))
    budget, seen = rows * VOCAB * 10, Held()
    inner = linear_divergence_rows.linear_divergence_rows

    def watched(*arguments):
        with seen:
            return inner(*arguments)

    monkeypatch.setattr("tide_kernels.linear_divergence.op.linear_divergence_rows", watched)
    linear.call(
        divergence,
        inputs,
        logits_dtype=logits_dtype,
        workspace_bytes=budget,
        backend="triton",
        student_softcap=5.0,
    )
    assert budget // 3 < seen.most <= budget


@pytest.mark.parametrize("op", [*DIVERGENCES, "token_logprob"])
def test_a_head_converted_in_several_tiles_equals_the_definition(op, monkeypatch):
    """300 entries of 32 fp32 numbers each, 64 at a time."""
    monkeypatch.setattr(head, "CPU_TILE_BYTES", 64 * WIDTH * 4)
    if op == "token_logprob":
        inputs, upstream = linear_token.make(ROWS, 300, torch.bfloat16, width=WIDTH)
        expected, d_expected = linear_token.truth(inputs, upstream)
        actual = linear_token.call(inputs, backend="torch")
        d_actual = linear_token.gradients(actual, upstream, inputs)
    else:
        inputs = linear.make(ROWS, 300, torch.bfloat16, widths=(WIDTH, WIDTH))
        result, d_expected = linear.truth(op, inputs)
        made = linear.call(op, inputs, backend="torch")
        expected, actual = result.kl, made.kl
        d_actual = linear.gradients(made, inputs)
    assert relative(actual, expected) < 64 * EPS32
    for one, two in zip(d_actual, d_expected, strict=True):
        assert relative(one, two) <= 0.51 * torch.finfo(torch.bfloat16).eps + 64 * EPS32


def exact_head(dtype, generator, rows=5, vocab=300, width=16):
    """Products that are exact in fp32, but not in a half dtype."""

    def whole(*shape, scale):
        return torch.randint(-64, 65, shape, generator=generator).to(dtype) * scale

    return whole(rows, width, scale=0.125), whole(vocab, width, scale=0.0625), whole(vocab, scale=0.125)


@pytest.mark.parametrize("out_dtype", ["fp32", "half"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("options", [HeadOptions(), HeadOptions(0.75), HeadOptions(-1.25, 30.0)], ids=str)
def test_half_logits_are_rounded_once(options, dtype, out_dtype):
    hidden, weight, bias = exact_head(dtype, torch.Generator().manual_seed(3))
    wanted = head_logits(hidden, weight, bias, options, torch.float32).to(dtype)
    twice = head_logits(hidden, weight, None, HeadOptions(), torch.float32).to(dtype) + bias
    assert not torch.equal(wanted, twice), "a rounding between product and bias must show"
    one = Head(weight, bias, options, torch.float32, torch.float32, dtype)
    out = torch.empty(5, 300, dtype=torch.float32 if out_dtype == "fp32" else dtype)
    through = rounding_buffer(5, 300, one.rounds_through(out.dtype), out.device)
    assert through.shape[1] == 48, "an eighth of the columns"
    assert torch.equal(one.logits(hidden, out, through).to(dtype), wanted)
    assert torch.equal(out.float(), wanted.float())


def test_a_plain_product_needs_no_rounding_buffer():
    _, weight, bias = exact_head(torch.bfloat16, torch.Generator().manual_seed(3))
    given = (torch.float32, torch.bfloat16, torch.bfloat16)
    assert Head(weight, None, HeadOptions(), *given).rounds_through(torch.bfloat16) is None
    assert Head(weight, bias, HeadOptions(), *given).rounds_through(torch.bfloat16) == torch.float32
    assert Head(weight, None, HeadOptions(0.5), *given).rounds_through(torch.bfloat16) == torch.float32
    assert Head(weight, None, HeadOptions(), *given).rounds_through(torch.float32) == torch.bfloat16


@pytest.mark.parametrize("forward", ["kernel", "runs", "kept"])
@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_log_p_of_half_logits_equals_the_definition(backend, forward, monkeypatch):
    """In fp16, since the interpreter truncates to bf16 where a GPU rounds."""
    if forward == "runs":
        monkeypatch.setattr(launch, "_product_fits", lambda _: False)
    hidden, weight, bias = exact_head(torch.float16, torch.Generator().manual_seed(4))
    ids = torch.arange(5) * 70
    given = {"bias": bias, "logit_scale": 0.75, "softcap": 30.0, "logits_dtype": torch.float16}
    hidden.requires_grad_(forward == "kept")
    exact = linear_token_logprob(hidden.double(), weight.double(), ids, bias=bias, backend="reference")
    wanted = linear_token_logprob(hidden, weight, ids, backend="reference", **given)
    log_p = linear_token_logprob(hidden, weight, ids, backend=backend, **given)
    assert relative(log_p, wanted.double()) < 16 * EPS32 < relative(wanted, exact)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("backend", ["torch", "native", "triton"])
def test_a_divergence_of_half_logits_equals_the_definition(backend, divergence):
    generator = torch.Generator().manual_seed(5)
    inputs = linear.make(5, 300, torch.float16, widths=(16, 16))
    for side in ("student", "teacher"):
        names = [f"{side}_{part}" for part in ("hidden", "weight", "bias")]
        inputs.update(zip(names, exact_head(torch.float16, generator), strict=True))
    options = {f"{side}_{name}": x for side in ("student", "teacher") for name, x in
               (("logit_scale", 0.75), ("softcap", 30.0))} | {"logits_dtype": torch.float16}  # fmt: skip
    wanted = linear.call(divergence, inputs, backend="reference", **options)
    result = linear.call(divergence, inputs, backend=backend, **options)
    assert relative(result.kl, wanted.kl.double()) < 32 * EPS32
    assert relative(result.ce, wanted.ce.double()) < 32 * EPS32


def test_hidden_states_are_converted_once_whatever_the_number_of_runs():
    inputs, upstream = linear_token.make(ROWS, VOCAB, torch.bfloat16, width=WIDTH)
    arguments, settings = checked_token_call(inputs, workspace_bytes=ROWS * 4 * 100)
    with torch.no_grad(), Held() as forward:
        _, statistics, kept = chunked.forward(arguments, settings)
    with torch.no_grad(), Held() as backward:
        chunked.backward(arguments, settings, statistics, kept, upstream)
    assert len(chunked.TokenLogprobCall(arguments, settings).runs[1]) > 10
    # Backward also converts their gradient.
    assert (forward.conversions, backward.conversions) == (1, 2)


def test_devices_without_fp32_output_of_half_products_use_torch_in_fp32():
    for device, backend, half in (("cuda", "triton", torch.bfloat16), ("xpu", "torch", torch.float32)):
        x = SimpleNamespace(device=torch.device(device), dtype=torch.bfloat16)
        assert product_dtype(x, x, torch.float32, None) == half
        assert product_dtype(x, x, torch.float32, torch.float16) == half
        assert (
            linear_backend("linear_token_logprob", "auto", x.device, torch.float32, grouped=False) == backend
        )
        # On request triton runs there, in fp32.
        assert (
            linear_backend("linear_token_logprob", "triton", x.device, torch.float32, grouped=False)
            == "triton"
        )

"""Hidden-in ops on a head sharded over gloo processes, against the whole head in fp64.

Mutants that this file kills: labels counted from the start of a shard, a maximum or a sum that is not
reduced, a hidden-state gradient that is not reduced, padding rows taken for entries or uninitialised in the
gradient, `careful` rows evaluated on one shard, arguments or errors of one rank unknown to the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import tide_kernels
from tests.kernels.cases import EPS32, widened
from tests.kernels.cases.linear import STUDENT, make
from tests.ranks import run_ranks

if TYPE_CHECKING:
    from torch import Tensor

# Three ranks: a first, a last, and one between.
WORLD = 3
ROWS, SHARD_ROWS = 13, 64
HEADS = ("student_weight", "student_bias", "teacher_weight", "teacher_bias")
OPS = ("linear_interpolated_kl", "linear_reverse_kl", "linear_token_logprob")
VARIANTS = ("plain", "padded", "excluded", "row_blocks", "scaled", "capped", "half")
UPSTREAM = 1.5

# Program of one rank: runs every case of the folder argv[1] on its shard, then the calls that must fail, and
# saves results and errors there.
RANK = """
import os, sys, time
from datetime import timedelta

import torch
import torch.distributed as dist
import tide_kernels

torch.set_num_threads(1)
rank, world, folder = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), sys.argv[1]
dist.init_process_group("gloo", timeout=timedelta(seconds=40))
group = dist.group.WORLD

def own(x):
    rows = x.shape[0] // world
    return x[rank * rows : (rank + 1) * rows].clone()

def run(case, **changed):
    function = getattr(tide_kernels, case["function"])
    tensors = {name: own(x) if name in case["heads"] else x for name, x in case["tensors"].items()}
    for name in case["trained"]:
        tensors[name].requires_grad_()
    tensors.update(changed.pop("tensors", {}))
    result = function(**tensors, **case["options"] | changed, vocab_group=group)
    if isinstance(result, torch.Tensor):
        values, loss = {"log_p": result.detach()}, (result * case["upstream"]).sum()
    else:
        values = {name: x.detach() for name, x in result._asdict().items() if x is not None}
        loss = result.loss * case["upstream"]
    gradients = torch.autograd.grad(loss, [tensors[name] for name in case["trained"]])
    return {"values": values, "gradients": dict(zip(case["trained"], gradients))}

def failure(*arguments, **changed):
    start = time.monotonic()
    try:
        run(*arguments, **changed)
    except ValueError as error:
        return str(error), time.monotonic() - start
    return None, 0.0

last = rank == world - 1

def apart(name, case):
    # Calls in which the last rank differs from the others.
    tensors, token = case["tensors"], name == "linear_token_logprob"
    ids = "token_ids" if token else "labels"
    hidden = "hidden" if token else "student_hidden"
    heads = case["heads"]
    yield "workspace_bytes", {"workspace_bytes": 4096 if last else 1 << 20}
    rows = tensors[ids].shape[0] - last
    # Every per-row tensor.
    per_row = {key: x[:rows].clone() for key, x in tensors.items() if key not in heads}
    yield "rows", {"tensors": per_row}
    yield "dtype", {"tensors": {hidden: tensors[hidden].to(torch.bfloat16 if last else torch.float32)}}
    if token:
        yield "trained", {"tensors": {hidden: tensors[hidden].detach().clone().requires_grad_(not last)}}
    else:
        yield "temperature", {"temperature": 1.5 if last else 2.0}
    outside = tensors[ids].clone()
    outside[3] = -1 if last else 0
    yield "ids", {"tensors": {ids: outside}}
    yield "shape", {"tensors": {hidden: tensors[hidden][:, :-1].clone() if last else tensors[hidden]}}
    yield "type", {"tensors": {hidden: None if last else tensors[hidden]}}
    yield "error", {"logit_scale" if token else "student_logit_scale": "2" if last else 1.0}

cases, shortened = torch.load(folder + "/cases.pt"), torch.load(folder + "/shortened.pt")
seen = {name: run(case) for name, case in cases.items()}
refused = {}
for name, case in shortened.items():
    refused[name + "-triton"] = failure(case, backend="triton")
    refused[name + "-reference"] = failure(case, backend="reference")
    # A new shard length, which differs on the last rank.
    rows = 9 if rank < world - 1 else 8
    shorter = {key: case["tensors"][key][:rows].clone() for key in case["heads"]}
    refused[name + "-length"] = failure(case, tensors=shorter)
    whole = {key: case["tensors"][key][:10].clone() for key in case["heads"]}
    refused[name + "-vocab_size"] = failure(case, tensors=whole, vocab_size=10 * (world - 1))
    for rule, changed in apart(name, case):
        refused[name + "-" + rule] = failure(case, **changed)
again = {name: run(case) for name, case in shortened.items()}
torch.save({"seen": seen, "refused": refused, "again": again}, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


def make_case(op: str, variant: str, world: int) -> dict[str, Any]:
    """Whole heads and options of a case. Labels lie on every shard."""
    vocab = SHARD_ROWS * world - 3 * (variant == "padded")
    dtype = torch.bfloat16 if variant == "half" else torch.float32
    inputs = make(ROWS, vocab, dtype, seed=world)
    ids = torch.arange(ROWS) * (vocab - 1) // (ROWS - 1)
    options: dict[str, Any] = {}
    if variant == "padded":
        options["vocab_size"] = vocab
    if variant == "row_blocks":
        # Two rows per row block, four per gradient block; seven columns per run.
        options["workspace_bytes"] = ROWS * 4 * 7 if op == "linear_token_logprob" else SHARD_ROWS * 4 * 15
    scale, cap = (0.7 if variant == "scaled" else 1.0), (3.0 if variant == "capped" else None)
    if variant == "excluded":
        exclude(inputs, op, vocab)
    if op == "linear_token_logprob":
        if variant == "excluded":
            ids[4] = 5
        tensors = {name: inputs[f"student_{name}"] for name in ("hidden", "weight", "bias")}
        tensors["token_ids"] = ids
        options.update(logit_scale=scale, softcap=cap)
        heads, trained = ("weight", "bias"), ("hidden", "weight", "bias")
        upstream: Any = torch.linspace(-1.0, UPSTREAM, ROWS)
    else:
        tensors = {**inputs, "labels": ids}
        if op == "linear_reverse_kl":
            del tensors["lambda_t"]
        options.update(
            student_logit_scale=scale,
            teacher_logit_scale=1.3 if variant == "scaled" else 1.0,
            student_softcap=cap,
            teacher_softcap=None if cap is None else 2 * cap,
            temperature=2.0,
        )
        heads, trained, upstream = HEADS, STUDENT, UPSTREAM
    return {
        "function": op,
        "heads": heads,
        "trained": trained,
        "upstream": upstream,
        "tensors": {name: x.detach() for name, x in tensors.items()},
        "options": options,
    }


def exclude(inputs: dict[str, Tensor], op: str, vocab: int) -> None:
    """-inf biases: both sides in column 7, the student only in 5 and most of the last shard."""
    both, student = [7, vocab - 2], [5, *range(vocab - SHARD_ROWS + 1, vocab - 5)]
    for name in ("student_bias", "teacher_bias"):
        inputs[name].data[both] = -torch.inf
    inputs["student_bias"].data[student] = -torch.inf
    if op == "linear_interpolated_kl":
        # Teacher only: r = 0 there. Under reverse KL it would make every row infinite.
        inputs["teacher_bias"].data[9] = -torch.inf
        inputs["lambda_t"][0], inputs["lambda_t"][1] = 0.0, 1.0  # row 1 is infinite
        inputs["lambda_t"][2] = 0.5


def padded(case: dict[str, Any], world: int) -> dict[str, Any]:
    """The case with heads padded by NaN rows to equal shards."""

    def pad(x: Tensor) -> Tensor:
        missing = SHARD_ROWS * world - x.shape[0]
        return torch.cat([x, x.new_full((missing, *x.shape[1:]), torch.nan)])

    tensors = {name: pad(x) if name in case["heads"] else x for name, x in case["tensors"].items()}
    return {**case, "tensors": tensors}


def truth(case: dict[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Values and gradients by the definition in fp64, on whole heads."""
    for name in case["trained"]:
        case["tensors"][name].requires_grad_()
    wide = widened(case["tensors"])
    result = getattr(tide_kernels, case["function"])(**wide, **case["options"], backend="reference")
    if isinstance(result, torch.Tensor):
        values, loss = {"log_p": result.detach()}, (result * case["upstream"]).sum()
    else:
        values, loss = {name: x.detach() for name, x in result._asdict().items()}, result.loss * UPSTREAM
    gradients = torch.autograd.grad(loss, [wide[name] for name in case["trained"]])
    return {"values": values, "gradients": dict(zip(case["trained"], gradients, strict=True))}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Results and errors of every rank."""
    folder = tmp_path_factory.mktemp("ranks")
    cases = {(op, variant): make_case(op, variant, WORLD) for op in OPS for variant in VARIANTS}
    torch.save({name: padded(case, WORLD) for name, case in cases.items()}, folder / "cases.pt")
    torch.save({op: cases[op, "plain"] for op in OPS}, folder / "shortened.pt")
    run_ranks(RANK, WORLD, folder, str(folder), seconds=90)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


def distance(actual: Tensor, expected: Tensor) -> float:
    """Largest error over the largest entry; infinite if infinities differ."""
    actual, infinite = actual.double(), expected.isinf()
    if not torch.equal(actual[infinite], expected[infinite]):
        return float("inf")
    scale = expected[~infinite].abs().amax().clamp_min(1e-30) if (~infinite).any() else 1.0
    error = ((actual - expected)[~infinite].abs() / scale).nan_to_num(torch.inf)
    return float(error.amax()) if error.numel() else 0.0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("op", OPS)
def test_values_equal_the_whole_head_in_fp64(ranks: list[dict[str, Any]], op: str, variant: str) -> None:
    expected = truth(make_case(op, variant, len(ranks)))["values"]
    for rank, seen in enumerate(ranks):
        values = seen["seen"][op, variant]["values"]
        assert values.keys() == expected.keys()
        for name, wanted in expected.items():
            assert values[name].dtype == torch.float32
            assert distance(values[name], wanted) < 32 * EPS32, (rank, name)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("op", OPS)
def test_values_and_the_gradient_of_hidden_states_are_the_same_bits_on_every_rank(
    ranks: list[dict[str, Any]], op: str, variant: str
) -> None:
    first, *others = (seen["seen"][op, variant] for seen in ranks)
    hidden = next(iter(first["gradients"]))
    for other in others:
        assert all(torch.equal(value, other["values"][name]) for name, value in first["values"].items())
        assert torch.equal(first["gradients"][hidden], other["gradients"][hidden])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("op", OPS)
def test_gradients_equal_the_whole_head_in_fp64(ranks: list[dict[str, Any]], op: str, variant: str) -> None:
    case = make_case(op, variant, len(ranks))
    hidden, *head = case["trained"]
    expected = truth(case)["gradients"]
    seen = [rank["seen"][op, variant]["gradients"] for rank in ranks]
    rounding = 0.51 * torch.finfo(case["tensors"][hidden].dtype).eps if variant == "half" else 0.0
    assert expected[hidden].abs().max() > 0
    assert distance(seen[0][hidden], expected[hidden]) < rounding + 64 * EPS32
    for name in head:
        whole = torch.cat([gradients[name] for gradients in seen])
        in_use = expected[name].shape[0]
        assert whole.shape[0] == SHARD_ROWS * len(ranks)
        # By shard, so that the largest gradient of all hides no error.
        for start in range(0, in_use, SHARD_ROWS):
            part = slice(start, min(start + SHARD_ROWS, in_use))
            assert distance(whole[part], expected[name][part]) < rounding + 256 * EPS32, (name, start)
        assert distance(whole[:in_use], expected[name]) < rounding + 64 * EPS32, name


@pytest.mark.parametrize("op", OPS)
def test_padding_rows_get_gradient_zero(ranks: list[dict[str, Any]], op: str) -> None:
    gradients = ranks[-1]["seen"][op, "padded"]["gradients"]
    for name in list(gradients)[1:]:
        assert torch.equal(gradients[name][-3:], torch.zeros_like(gradients[name][-3:])), name
        assert gradients[name][:-3].abs().max() > 0


def test_the_case_of_excluded_entries_needs_the_definition(ranks: list[dict[str, Any]]) -> None:
    kl = ranks[0]["seen"]["linear_interpolated_kl", "excluded"]["values"]["kl"]
    assert kl.isposinf().tolist() == [row == 1 for row in range(ROWS)]
    log_p = ranks[0]["seen"]["linear_token_logprob", "excluded"]["values"]["log_p"]
    assert bool(log_p[4].isneginf())


def refusals(ranks: list[dict[str, Any]], name: str) -> str:
    """The error of a call: the same on every rank, and long before a collective would time out."""
    messages = {seen["refused"][name][0] for seen in ranks}
    assert len(messages) == 1
    assert max(seen["refused"][name][1] for seen in ranks) < 15
    message = messages.pop()
    assert message is not None and message.startswith(name.split("-")[0] + ": ")
    return str(message)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("op", OPS)
def test_other_backends_raise(ranks: list[dict[str, Any]], op: str, backend: str) -> None:
    message = refusals(ranks, f"{op}-{backend}")
    assert "vocab_group needs backend 'torch'" in message and backend in message and "rank" not in message


@pytest.mark.parametrize("op", OPS)
def test_shards_of_different_length_raise_on_every_rank(ranks: list[dict[str, Any]], op: str) -> None:
    message = refusals(ranks, f"{op}-length")
    assert "vocab_group needs the same" in message and "weight" in message
    assert "(9, " in message and "(8, " in message, "the lengths by rank"


@pytest.mark.parametrize("op", OPS)
def test_a_vocab_size_that_leaves_a_shard_empty_raises_on_every_rank(
    ranks: list[dict[str, Any]], op: str
) -> None:
    assert f"got vocab_size {10 * (len(ranks) - 1)}" in refusals(ranks, f"{op}-vocab_size")


# What differs on the last rank, and a part of the error.
APART = (
    ("workspace_bytes", "the same workspace_bytes; got 1048576; {others}4096 by rank"),
    ("rows", "hidden; got torch.float32 (13, 24); {others}torch.float32 (12, 24) by rank"),
    ("dtype", "hidden; got torch.float32 (13, 24); {others}torch.bfloat16 (13, 24) by rank"),
    ("trained", "the same needed; got [True, True, True]; {others}[False, True, True] by rank"),
    ("temperature", "the same temperature; got 2.0; {others}1.5 by rank"),
    ("ids", "rank {last} of vocab_group refuses its arguments: "),
    ("shape", "rank {last} of vocab_group refuses its arguments: "),
    ("type", "hidden must be a torch tensor; got NoneType. "),
    ("error", "rank {last} of vocab_group refuses its arguments: TypeError("),
)
# The difference that an op is not tested for.
ELSEWHERE = {op: "temperature" if op == "linear_token_logprob" else "trained" for op in OPS}


@pytest.mark.parametrize(
    ("op", "rule", "said"), [(op, *case) for op in OPS for case in APART if case[0] != ELSEWHERE[op]]
)
def test_a_difference_on_one_rank_raises_on_all(
    ranks: list[dict[str, Any]], op: str, rule: str, said: str
) -> None:
    last = len(ranks) - 1
    first = said.split("got ")[-1].split("; ")[0]
    assert said.format(last=last, others=f"{first}; " * (last - 1)) in refusals(ranks, f"{op}-{rule}")


@pytest.mark.parametrize("op", OPS)
def test_ranks_stay_in_step_after_an_error(ranks: list[dict[str, Any]], op: str) -> None:
    for seen in ranks:
        before, after = seen["seen"][op, "plain"], seen["again"][op]
        for kind in ("values", "gradients"):
            assert all(torch.equal(x, after[kind][name]) for name, x in before[kind].items())

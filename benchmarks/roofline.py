"""Predict how near to an H200's memory bandwidth each kernel runs; fail on a hot loop over its budget.

    python -m benchmarks.roofline [--only reverse_kl]

Compiles every kernel that reads rows of logits ahead of time for sm_90, counts the instructions of its main
loop, replays the loop on the model of `_sm_model.py`, and writes docs/kernels/roofline.md. --only prints the
kernels whose name contains the text, and writes nothing. Needs no GPU. TRITON_INTERPRET must be unset.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import triton

from benchmarks import _sass, _sm_model
from benchmarks._kernel_variants import KERNELS, PLAIN, REPRESENTATIVE, VARIANTS, Kernel, signature
from benchmarks._sm_model import BYTES_PER_CYCLE, GIGAHERTZ, MEMORY_LATENCIES, MULTIPROCESSORS
from benchmarks.kernel_builds import binary_of, blocks_of, require_compiler, resident_warps
from tide_kernels._shared.launch import Blocks

TARGET = "sm_90"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "kernels" / "roofline.md"
# Instructions per entry up to which memory, not issue, limits a pass of 4 bytes, and one of 6.
FORWARD_BUDGET = 28
# Of tiles of near rows where some |w| passes 1: they take series and subtraction, and issue limits them.
MIXED_BUDGET = 32
BACKWARD_BUDGET = 42
BARRIER_BUDGET = 0
# Hot paths of a divergence's forward, by length. Other kernels have one, the shortest.
FORWARD_PATHS = ("differ", "near", "mixed")
# Bits of an entry of each tensor: all rows are bf16.
ENTRY_BITS = 16
# Of the predicted times.
ROWS, VOCAB = 4096, 151_936


class Peer(NamedTuple):
    """A kernel of liger-kernel, and how liger launches it for V = 151,936."""

    name: str
    module: str
    function: str
    blocks: Blocks
    rows: int  # tensors that its loops read along the vocabulary
    types: Mapping[str, str]  # by argument; other pointers are *fp32, other numbers i32
    constants: Mapping[str, Any]
    loops: tuple[str, ...] = ("",)  # names of its loops over the vocabulary, in program order


def _jsd(beta: float) -> Peer:
    types = dict.fromkeys(("X_ptr", "Y_ptr", "dX_ptr"), "*bf16")
    constants = {"beta": beta, "ignore_index": -100, "HAS_LABEL": False}
    name = f"JSD, beta = {beta:.0f}, with gradient"
    return Peer(name, "jsd", "_jsd_kernel", Blocks(4096, 4), 2, types, constants)


PEERS = (
    _jsd(0.0),
    _jsd(1.0),
    Peer(
        "KL",
        "kl_div",
        "_kldiv_kernel_forward",
        Blocks(16384, 16),
        2,
        {"y_ptr": "*bf16", "gt_ptr": "*bf16", "eps": "fp32"},
        {"loss_stride": 1, "reduction": 3, "log_target": True},
    ),
    Peer(
        "KL, gradient",
        "kl_div",
        "_kldiv_kernel_backward",
        Blocks(16384, 16),
        1,
        {"target_ptr": "*bf16", "new_grads_ptr": "*bf16"},
        {"log_target": True},
    ),
    Peer(
        "cross-entropy",
        "cross_entropy",
        "liger_cross_entropy_kernel",
        Blocks(32768, 32),
        1,
        {"X_ptr": "*bf16", "Y_ptr": "*i64", "loss_ptr": "*bf16", "weight_sum": "fp32"},
        dict.fromkeys(("weight_ptr", "z_loss_ptr", "token_accuracy_ptr", "predicted_tokens_ptr", "softcap"))
        | dict.fromkeys(("RETURN_Z_LOSS", "RETURN_TOKEN_ACCURACY", "RETURN_PREDICTED_TOKENS"), False)
        | {"HAS_WEIGHT": False, "HAS_SOFTCAPPING": False, "HAS_GRADIENTS": True, "reduction": "mean"}
        | {"lse_square_scale": 0.0, "label_smoothing": 0.0, "Y_stride": 1, "loss_stride": 1}
        | {"token_accuracy_stride": 0, "predicted_tokens_stride": 0},
        ("loss", "gradient"),
    ),
)


class Built(NamedTuple):
    """A compiled kernel."""

    listing: _sass.Listing
    warps: int  # of a program
    resident_warps: int  # on a multiprocessor


class Row(NamedTuple):
    """Counts and prediction of one path; instructions and bytes are per thread and vocabulary entry."""

    kernel: str
    launch: str
    path: str
    instructions: float
    pipes: Mapping[str, float]
    barriers: int  # in a pass through the loop
    shuffles: int
    num_bytes: float
    resident_warps: int
    shares: tuple[float, ...]  # of the bandwidth, by memory latency


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, count, replay and report. Returns 1 if a hot loop is over its budget."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="kernels whose name contains TEXT")
    only = parser.parse_args(arguments).only
    require_compiler("roofline")
    rows = [row for kernel in KERNELS if kernel.rows and only in kernel.name for row in kernel_rows(kernel)]
    faults = [fault for row in rows for fault in over_budget(row)]
    missing = []
    for peer in (peer for peer in PEERS if only in f"liger {peer.name}"):
        try:
            rows += peer_rows(peer)
        except Exception as error:  # another version's kernel may have other arguments, or not compile
            missing.append(f"liger {peer.name} is left out: {type(error).__name__}")
    if only:
        print(table_of(rows), *missing, sep="\n")
    else:
        PAGE.write_text(page(rows, faults, missing))
        print(f"{len(rows)} paths, in {PAGE}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


def kernel_rows(kernel: Kernel) -> Iterator[Row]:
    """Hot paths of a kernel at T = 2: without labels and, if it takes them, with."""
    takes_labels = "HAS_LABEL" in {parameter.name for parameter in kernel.function.params}
    launches = {PLAIN: "plain"} | ({REPRESENTATIVE: "labels"} if takes_labels else {})
    names = FORWARD_PATHS if kernel.rows == 2 and not kernel.name.endswith("_bwd") else ("",)
    blocks = blocks_of(kernel, TARGET)
    assert blocks is not None, kernel.name
    for variant in (variant for variant in VARIANTS if variant.name in launches):
        build = built(kernel.function, signature(kernel, variant, blocks.block_v), blocks)
        loop = _sass.main_loop(build.listing)
        paths = _sass.hot_paths(build.listing, loop, ENTRY_BITS * kernel.rows) if loop else []
        # A path with a shuffle is taken for the rare one: it must not drop out unnoticed.
        if len(paths) < len(names):
            raise ValueError(
                f"roofline: {kernel.name} ({variant.name}) has {len(paths)} hot paths through its loop over "
                f"a row; {len(names)} are known ({', '.join(filter(None, names)) or 'one'})"
            )
        for name, path in zip(names, paths, strict=False):
            yield path_row(kernel.name, launches[variant.name], name, build, path, kernel.rows)


def peer_rows(peer: Peer) -> Iterator[Row]:
    """The shortest path of each loop of another package's kernel."""
    function = getattr(importlib.import_module(f"liger_kernel.ops.{peer.module}"), peer.function)
    constants = {"BLOCK_SIZE": peer.blocks.block_v, **peer.constants}
    types = {}
    for name in (parameter.name for parameter in function.params):
        types[name] = peer.types.get(name, "*fp32" if name.endswith("_ptr") else "i32")
    types |= dict.fromkeys(constants, "constexpr")
    divisible = [n for n in types if n not in constants and n.endswith(("_ptr", "_stride", "n_cols"))]
    build = built(function, (types, constants, divisible), peer.blocks)
    loops = [x for x in _sass.loops(build.listing) if _sass.accesses(build.listing, x.body).loads]
    for name, loop in zip(peer.loops, loops, strict=True):
        path = _sass.hot_paths(build.listing, loop, ENTRY_BITS * peer.rows)[0]
        yield path_row(f"liger {peer.name}", "plain", name, build, path, peer.rows)


def built(
    function: Any, arguments: tuple[dict[str, str], dict[str, Any], list[str]], blocks: Blocks
) -> Built:
    """Compile a `triton.jit` function for TARGET. arguments: types, constants, those divisible by 16."""
    binary = binary_of(function, arguments, TARGET, blocks)
    resources, listing = _sass.nvidia(binary)
    warps, shared = blocks.num_warps, int(binary.metadata.shared)
    return Built(listing, warps, resident_warps(TARGET, resources.registers, shared, warps))


def path_row(kernel: str, launch: str, name: str, build: Built, path: Sequence[int], tensors: int) -> Row:
    """Count a path and replay it. tensors: that it reads along the vocabulary."""
    access = _sass.accesses(build.listing, path)
    entries = sum(access.loads) / (ENTRY_BITS * tensors)
    opcodes = Counter(build.listing.instructions[index].name for index in path)
    steps = _sm_model.steps_of(build.listing, path)
    moved = sum(step.num_bytes for step in steps)
    shares = []
    for latency in MEMORY_LATENCIES:
        cycles = _sm_model.replay(steps, build.warps, build.resident_warps // build.warps, latency)
        # The timed passes may end a little off the steady state.
        shares.append(min(1.0, moved / cycles / BYTES_PER_CYCLE))
    return Row(
        kernel,
        launch,
        name,
        len(path) / entries,
        {pipe: count / entries for pipe, count in Counter(step.pipe for step in steps).items()},
        opcodes["BAR"],
        opcodes["SHFL"],
        sum(access.loads + access.stores) / 8 / entries,
        build.resident_warps,
        tuple(shares),
    )


def over_budget(row: Row) -> list[str]:
    """Describe the budgets that a hot path passes; empty if none."""
    budget = BACKWARD_BUDGET if row.kernel.endswith("_bwd") else FORWARD_BUDGET
    if row.path == FORWARD_PATHS[-1]:
        budget = MIXED_BUDGET
    where = f"{row.kernel} ({', '.join(filter(None, (row.launch, row.path)))})"
    faults = []
    if row.instructions > budget:
        faults.append(f"{where}: {row.instructions:.1f} instructions an entry; the budget is {budget}")
    if row.barriers > BARRIER_BUDGET:
        faults.append(f"{where}: {row.barriers} barriers in the hot loop; the budget is {BARRIER_BUDGET}")
    return faults


def table_of(rows: Sequence[Row]) -> str:
    """Markdown table of paths."""
    columns = ["kernel", "launch", "path", "instructions", "FMA", "ALU", "MUFU", "barriers", "shuffles"]
    columns += ["bytes", "warps", *(f"% at {latency}" for latency in MEMORY_LATENCIES), "ms"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    bandwidth = BYTES_PER_CYCLE * MULTIPROCESSORS * GIGAHERTZ * 1e9
    for row in rows:
        milliseconds = 1e3 * ROWS * VOCAB * row.num_bytes / bandwidth / min(row.shares)
        cells = [row.kernel, row.launch, row.path or "-", f"{row.instructions:.1f}"]
        cells += [f"{row.pipes.get(pipe, 0):.1f}" for pipe in ("FMA", "ALU", "MUFU")]
        cells += [str(row.barriers), str(row.shuffles), f"{row.num_bytes:.0f}", str(row.resident_warps)]
        cells += [*(f"{100 * share:.0f}" for share in row.shares), f"{milliseconds:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(rows: Sequence[Row], faults: Sequence[str], missing: Sequence[str]) -> str:
    """The text of docs/kernels/roofline.md."""
    pipes = (
        f"| {name} | {pipe.interval} | {pipe.latency or '-'} |" for name, pipe in _sm_model.PIPES.items()
    )
    try:
        liger = f"liger_kernel {importlib.metadata.version('liger_kernel')}"
    except importlib.metadata.PackageNotFoundError:
        liger = "no liger_kernel"
    return PREDICTIONS.format(
        triton=triton.__version__,
        liger=liger,
        pipes="\n".join(pipes),
        bytes_per_cycle=BYTES_PER_CYCLE,
        terabytes=BYTES_PER_CYCLE * MULTIPROCESSORS * GIGAHERTZ / 1e3,
        multiprocessors=MULTIPROCESSORS,
        gigahertz=GIGAHERTZ,
        latencies=" and ".join(map(str, MEMORY_LATENCIES)),
        forward=FORWARD_BUDGET,
        backward=BACKWARD_BUDGET,
        mixed=MIXED_BUDGET,
        barriers=BARRIER_BUDGET,
        faults="\n".join(f"- {fault}" for fault in faults) or "None.",
        rows=ROWS,
        vocab=VOCAB,
        table=table_of(rows),
        missing="".join(f"\n- {line}." for line in missing),
    )


PREDICTIONS = """# Roofline

**Predictions, not measurements.** A model of one multiprocessor of an H200 replays the compiled loops; it was
never calibrated on a device. Trust the order of the rows, and the figures to 15 to 20 %.

Written by `make roofline` with triton {triton} and {liger}, for sm_90, without a GPU.
`make roofline ARGS="--only reverse_kl"` prints some kernels and writes nothing.

## Predictions

bf16 rows whose strides are multiples of 16, T = 2. Each line is a path through the loop over whole tiles.

{table}

- **launch**: `labels` adds the cross-entropy.
- **path**, of a divergence's forward: `differ`, rows known to differ, by plain sums; `near`, other rows, by
  series; `mixed`, tiles of such rows that need both. Elsewhere the shortest path, which most tiles take.
- **instructions**, of these **FMA**, **ALU** and **MUFU**; **bytes** read and written: per vocabulary entry
  and, of instructions, per thread.
- **barriers**, **shuffles**: in one pass through the loop.
- **warps**: resident on a multiprocessor, by registers and shared memory.
- **%**: of {terabytes:.1f} TB/s, at a memory latency of {latencies} cycles.
- **ms**: for {rows:,} rows of {vocab:,} entries at the longer latency, in the loop's steady state: no launch,
  no partly filled wave, no rare tiles, no remaining columns, no merge at the end of a span of tiles or a row.

liger's kernels have the tiles and warps that liger gives them. Its JSD and KL take log-probabilities: the
table leaves out two log-softmaxes a call, and the sum of the fp32 losses that JSD writes per entry. liger
prefers its CuTe DSL kernels where they are installed.{missing}

Left out: kernels without a loop over a row (joins, chunk likelihoods), and `linear_token_logprob`, which
tensor cores and the L2 cache limit; the model has neither.

## Budgets

Memory limits a forward pass of 4 bytes per entry up to {forward} instructions, a backward pass of 6 up to
{backward}. Issue limits tiles of near rows in which some |w| passes 1 (`mixed`); their budget is {mixed}. The
command fails if a path of this project's kernels has more of them, or more than {barriers} barriers.
Over budget:

{faults}

## The model

Four schedulers issue one instruction a cycle each: from the warp that issued last while it can, else from the
first that can. Stall counts and scoreboards are those in the encoding. All resident warps repeat the path;
programs start at random. Shuffles and shared memory take one instruction a cycle from all schedulers
together. Memory moves {bytes_per_cycle} bytes per cycle and multiprocessor, in order and without caches.
There are {multiprocessors} multiprocessors at {gigahertz} GHz.

| pipe of a scheduler | cycles an instruction | cycles until the result |
|---|---|---|
{pipes}
"""


if __name__ == "__main__":
    sys.exit(main())

"""Rewrite this GPU's section of the table of block sizes, tide_kernels/_shared/blocks.json.

    python -m benchmarks.tune [--rows 4096 --vocab 151936 --dtype bfloat16] [--dry-run]

Every kernel runs with every candidate on the same inputs in alternating rounds, so that changes in clocks
affect all; the least median wins. A candidate that changes results by more than rounding, or does not
compile, is dropped. Needs torch, triton and a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from benchmarks._timing import Rounds, Step, alternate
from benchmarks.ops import load_op
from tide_kernels import token_scores
from tide_kernels._shared.launch import TABLE, Blocks, architecture, block_table, using_blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

# Few: each costs a compilation and its rounds.
CANDIDATES = tuple(
    Blocks(*x) for x in ((256, 1), (512, 2), (1024, 2), (1024, 4), (2048, 2), (2048, 4), (4096, 8))
)
# Tried with the register limit of the table's default, too, where it has one.
LIMITED = CANDIDATES[:3]
# Tiles of a product; they have 128 rows.
PRODUCT_CANDIDATES = tuple(Blocks(*x) for x in ((64, 4), (128, 4), (128, 8), (256, 8)))
PRODUCTS = {"linear_token_logprob_fwd"}
# A larger deviation from the results of the current table is an error, not another order of summation.
LARGEST_DEVIATION = 1e-2


def work_of(kernel: str, rows: int, vocab: int, dtype: str, device: torch.device) -> Callable[[], Tensor]:
    """One call of a kernel: `<op>_fwd` runs forward, `<op>_bwd` the backward of a retained graph."""
    name, _, part = kernel.rpartition("_")
    op = load_op("token_logprob" if kernel == "token_scores" else name)
    case = op.cases(device.type, (rows, vocab))[0]
    case = replace(case, dtype=dtype) if case.vocab else case
    tensors = op.inputs(case, device, False)
    if kernel == "token_scores":
        logits = tensors["student"].detach()
        return lambda: token_scores(logits, backend="triton").entropy
    loss = op.contestant("triton").build(case)
    if part == "fwd":
        return lambda: loss(tensors).detach()
    value, leaf = loss(tensors), tensors[op.trained[0]]
    return lambda: torch.autograd.grad(value, leaf, retain_graph=True)[0]


def candidates_for(kernel: str) -> tuple[Blocks, ...]:
    """Candidates of a kernel, some also with the register limit of the table's default."""
    if kernel in PRODUCTS:
        return PRODUCT_CANDIDATES
    limit = block_table()["default"][kernel].max_registers
    return CANDIDATES + tuple(blocks._replace(max_registers=limit) for blocks in LIMITED if limit)


def named(blocks: Blocks) -> str:
    """`columns/warps` or `columns/warps/registers`."""
    limit = f"/{blocks.max_registers}" if blocks.max_registers else ""
    return f"{blocks.block_v}/{blocks.num_warps}{limit}"


def best_blocks(
    kernel: str, run: Callable[[], Tensor], rounds: int, candidates: tuple[Blocks, ...], device: torch.device
) -> dict[Blocks, float]:
    """Median milliseconds of every correct candidate, fastest first. run: one call of the kernel."""
    expected = run().float()
    steps: dict[str, Step] = {}
    for blocks in candidates:

        def call(_: object, blocks: Blocks = blocks) -> Tensor:
            with using_blocks(kernel, blocks):
                return run()

        try:
            deviation = float((call(None).float() - expected).norm() / expected.norm())
        except Exception as error:  # Triton raises its own types, also for resources that the device lacks
            print(f"{kernel} {named(blocks)}: {type(error).__name__}, left out")
            continue
        if not deviation <= LARGEST_DEVIATION:
            print(f"{kernel} {named(blocks)}: off by {deviation:.1e}, left out")
            continue
        steps[named(blocks)] = Step(call)
    times = alternate(steps, device, Rounds(0.0, rounds, rounds, 1))
    medians = {
        blocks: 1e3 * statistics.median(times[named(blocks)].seconds)
        for blocks in candidates
        if named(blocks) in times
    }
    return dict(sorted(medians.items(), key=lambda item: item[1]))


def write_table(path: Path, section: str, chosen: dict[str, Blocks]) -> None:
    """Replace one architecture's section of blocks.json."""
    table: dict[str, Any] = json.loads(path.read_text())
    table[section] = {
        kernel: {key: value for key, value in blocks._asdict().items() if value}
        for kernel, blocks in chosen.items()
    }
    path.write_text(json.dumps(table, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print, and rewrite the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=4096, help="N")
    parser.add_argument("--vocab", type=int, default=151_936, help="V")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kernels", nargs="+", default=None, help="names in the table; all by default")
    parser.add_argument("--dry-run", action="store_true", help="print, and leave the table as it is")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks.tune: no GPU here; block sizes are measured on the GPU that will run them."
        )
    device = torch.device("cuda", torch.cuda.current_device())
    section = architecture(device)
    chosen = dict(block_table().get(section, block_table()["default"]))
    for kernel in options.kernels or block_table()["default"]:
        run = work_of(kernel, options.rows, options.vocab, options.dtype, device)
        medians = best_blocks(kernel, run, options.rounds, candidates_for(kernel), device)
        for blocks, milliseconds in medians.items():
            print(f"{kernel:24} {named(blocks):>12} {milliseconds:9.3f} ms")
        chosen[kernel] = next(iter(medians))
    if not options.dry_run:
        write_table(TABLE, section, chosen)
        print(f"section {section} of {TABLE.name} rewritten")


if __name__ == "__main__":
    main()

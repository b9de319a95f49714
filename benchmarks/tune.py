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
from typing import TYPE_CHECKING, Any

import torch

from tide_kernels import (
    chunk_likelihood,
    interpolated_kl,
    linear_token_logprob,
    reverse_kl,
    token_logprob,
    token_scores,
)
from tide_kernels._shared.launch import TABLE, Blocks, architecture, block_table, using_blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

WIDTHS = {1: (256, 512, 1024), 2: (512, 1024, 2048), 4: (1024, 2048, 4096), 8: (4096, 8192)}
CANDIDATES = tuple(Blocks(width, warps) for warps, widths in WIDTHS.items() for width in widths)
# Tiles of a product; they have 128 rows.
PRODUCT_CANDIDATES = tuple(Blocks(*x) for x in ((64, 4), (64, 8), (128, 4), (128, 8), (256, 8)))
PRODUCTS = {"linear_token_logprob_fwd"}
HIDDEN_WIDTH = 1024
# A larger deviation from the results of the current table is an error, not another order of summation.
LARGEST_DEVIATION = 1e-2


def work_of(
    rows: int, vocab: int, dtype: torch.dtype, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """One call per kernel: `<op>_fwd` runs forward, `<op>_bwd` the backward of a retained graph."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype)

    student, teacher = 2 * normal(rows, vocab), 2 * normal(rows, vocab)
    student.requires_grad_()
    lambda_t = torch.rand(rows, generator=generator, device=device)
    ids = torch.randint(vocab, (rows,), generator=generator, device=device)
    length = 1024
    token_log_p = -3 * torch.rand(max(rows // length, 1), length, generator=generator, device=device)
    chunks = (torch.arange(length, device=device) // 2).expand_as(token_log_p)
    active = torch.ones(len(token_log_p), length // 2, dtype=torch.bool, device=device)
    token_log_p.requires_grad_()
    hidden, head = normal(rows, HIDDEN_WIDTH), normal(vocab, HIDDEN_WIDTH) * HIDDEN_WIDTH**-0.5

    def tidal() -> Tensor:
        return interpolated_kl(student, teacher, lambda_t, temperature=2.0, backend="triton")

    forward: dict[str, Callable[[], Tensor]] = {
        "interpolated_kl": tidal,
        "reverse_kl": lambda: reverse_kl(student, teacher, temperature=2.0, backend="triton"),
        "token_logprob": lambda: token_logprob(student, ids, backend="triton"),
        "token_scores": lambda: token_scores(student.detach(), backend="triton").entropy,
        "chunk_likelihood": lambda: chunk_likelihood(
            token_log_p, token_log_p.detach(), chunks, chunks, active, backend="triton"
        ),
        "linear_token_logprob": lambda: linear_token_logprob(hidden, head, ids, backend="triton"),
    }

    def backward_of(op: str) -> Callable[[], Tensor]:
        result = forward[op]()
        leaf = token_log_p if op == "chunk_likelihood" else student
        upstream = torch.ones_like(result)
        return lambda: torch.autograd.grad(result, leaf, upstream, retain_graph=True)[0]

    work: dict[str, Callable[[], Tensor]] = {}
    for kernel in block_table()["default"]:
        op, _, part = kernel.rpartition("_")
        if part == "bwd":
            work[kernel] = backward_of(op)
        else:
            work[kernel] = forward[op if part == "fwd" else kernel]
    return work


def candidates_for(kernel: str) -> tuple[Blocks, ...]:
    """Candidates of a kernel, without and with the register limit of the table's default."""
    candidates = PRODUCT_CANDIDATES if kernel in PRODUCTS else CANDIDATES
    limit = block_table()["default"][kernel].max_registers
    return candidates + tuple(blocks._replace(max_registers=limit) for blocks in candidates if limit)


def named(blocks: Blocks) -> str:
    """`columns/warps` or `columns/warps/registers`."""
    limit = f"/{blocks.max_registers}" if blocks.max_registers else ""
    return f"{blocks.block_v}/{blocks.num_warps}{limit}"


def event_ms(run: Callable[[], Any]) -> float:
    """Milliseconds of one call by CUDA events."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop))


def best_blocks(
    kernel: str,
    run: Callable[[], Tensor],
    rounds: int,
    clock: Callable[[Callable[[], Any]], float] = event_ms,
    candidates: tuple[Blocks, ...] = CANDIDATES,
) -> dict[Blocks, float]:
    """Median milliseconds of every correct candidate, fastest first.

    Args:
        kernel: name in the table.
        run: one call that launches it.
        rounds: timed calls per candidate.
        clock: times one call.
        candidates: to try.
    """
    expected = run().float()
    running: dict[Blocks, list[float]] = {}
    for blocks in candidates:
        with using_blocks(kernel, blocks):
            try:
                deviation = float((run().float() - expected).norm() / expected.norm())
            except (
                Exception
            ) as error:  # Triton raises its own types, also for resources that the device lacks
                print(f"{kernel} {named(blocks)}: {type(error).__name__}, left out")
                continue
        if not deviation <= LARGEST_DEVIATION:
            print(f"{kernel} {named(blocks)}: off by {deviation:.1e}, left out")
            continue
        running[blocks] = []
    for _ in range(rounds):
        for blocks, times in running.items():
            with using_blocks(kernel, blocks):
                times.append(clock(run))
    medians = {blocks: statistics.median(times) for blocks, times in running.items()}
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
    work = work_of(options.rows, options.vocab, getattr(torch, options.dtype), device)
    section = architecture(device)
    chosen = dict(block_table().get(section, block_table()["default"]))
    for kernel in options.kernels or work:
        medians = best_blocks(kernel, work[kernel], options.rounds, candidates=candidates_for(kernel))
        for blocks, milliseconds in medians.items():
            print(f"{kernel:24} {named(blocks):>12} {milliseconds:9.3f} ms")
        chosen[kernel] = next(iter(medians))
    if not options.dry_run:
        write_table(TABLE, section, chosen)
        print(f"section {section} of {TABLE.name} rewritten")


if __name__ == "__main__":
    main()

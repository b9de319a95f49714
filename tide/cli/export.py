"""tide export STUDENT OUTPUT --format FORMAT: a student for serving engines, or for dllm."""

from __future__ import annotations

import argparse
from os.path import expanduser
from typing import TYPE_CHECKING

from tide.cli.subparsers import add_dtype, length, status_log

if TYPE_CHECKING:
    from tide.cli.subparsers import Subparsers

SERVE = """\
serve with SGLang:
  python -m sglang.launch_server --model-path {output} --trust-remote-code \\
    --dllm-algorithm LowConfidence --dllm-algorithm-config {output}/{sglang_file}
serve with LMDeploy:
  lmdeploy serve api_server {output} --backend pytorch --dllm-block-length {block_size}"""


def add_parser(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "export",
        help="write a student for serving engines, or for dllm",
        description="Write a block-diffusion student, with its tokenizer, as SDAR, which SGLang and LMDeploy "
        "serve, or as a2d-qwen3 or a2d-llama, which dllm loads. a2d-llama holds students of Llama's network, "
        "the others those of Qwen3's.",
    )
    parser.add_argument("student", metavar="STUDENT", type=expanduser, help="folder or hub id of the student")
    parser.add_argument("output", metavar="OUTPUT", type=expanduser, help="folder to write, new or empty")
    parser.add_argument(
        "--format", choices=("sdar", "a2d-qwen3", "a2d-llama"), required=True, help="layout of the files"
    )
    add_dtype(parser, default="bfloat16", meaning="%(default)s")
    parser.add_argument(
        "--block-size", type=length, metavar="N", help="as in training, if config.json does not record it"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from tide.models import export_model
    from tide.models.export import SGLANG_FILE

    done = export_model(
        arguments.student,
        arguments.output,
        format=arguments.format,
        dtype=arguments.dtype,
        block_size=arguments.block_size,
    )
    log = status_log("export")
    for warning in done.warnings:
        log(f"warning: {warning}")
    print(f"{arguments.output}: {arguments.format}, {done.num_parameters:,} parameters in {arguments.dtype}")
    print(
        f"  mask token {done.mask_token}, id {done.contract.mask_id}; block size {done.contract.block_size}"
    )
    if arguments.format == "sdar":
        print(
            SERVE.format(
                output=arguments.output, sglang_file=SGLANG_FILE, block_size=done.contract.block_size
            )
        )
    return 0

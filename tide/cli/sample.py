"""tide sample CHECKPOINT PROMPT ...: complete prompts, or chat, with a block-diffusion model."""

from __future__ import annotations

import argparse
import sys
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

from tide.cli.faults import Terminated
from tide.cli.subparsers import length, to_stderr

if TYPE_CHECKING:
    from collections.abc import Callable

    from tide.cli.subparsers import Subparsers

    Messages = list[dict[str, str]]


def add_parser(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sample",
        help="complete prompts, or chat, with a block-diffusion model",
        description="Complete each prompt, block by block, in the order of confidence.",
    )
    parser.add_argument(
        "checkpoint",
        type=expanduser,
        help="folder or hub id of a block-diffusion model with its tokenizer",
    )
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help=r"text, in which \n stands for a line break; or - to read one prompt from the standard input",
    )
    parser.add_argument(
        "--prompt-file", type=expanduser, metavar="FILE", help="a prompt: the whole file, as it is"
    )
    parser.add_argument(
        "--chat",
        action="store_true",
        help="answer each prompt as a user's message, by the chat template; without a prompt, hold a "
        "conversation, a line a message, which an empty line or Ctrl-D ends; Ctrl-C stops a reply",
    )
    parser.add_argument("--max-new-tokens", type=length, default=128, help="default: %(default)s")
    parser.add_argument(
        "--block-size",
        type=length,
        help="as in training (default: that of the checkpoint's config.json)",
    )
    parser.add_argument(
        "--steps-per-block", type=length, help="denoising steps per block (default: one token a step)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="T",
        help="draw tokens from softmax(logits / T) (default: 0, the likeliest token)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    prompts = [_read("-") if text == "-" else text.replace("\\n", "\n") for text in arguments.prompts]
    if arguments.prompt_file is not None:
        prompts.append(_read(arguments.prompt_file))
    if not prompts and not arguments.chat:
        arguments.parser.error("expected a PROMPT, --prompt-file FILE or --chat")
    from tide.config import at_key
    from tide.data import check_chat_template
    from tide.models import contract_of, load_config, load_model, load_tokenizer, without_progress_bars
    from tide.sampling import generate

    _check_finished(Path(arguments.checkpoint))
    config, tokenizer = load_config(arguments.checkpoint), load_tokenizer(arguments.checkpoint)
    if arguments.chat:
        with at_key("--chat"):
            check_chat_template(tokenizer)
    given = {} if arguments.block_size is None else {"block_size": arguments.block_size}
    contract = contract_of(config, tokenizer, values=given)
    block_size = contract.block_size
    if block_size is None or not contract.block_diffusion:
        raise ValueError(
            f"sample: decodes block by block, each of them bidirectional; {arguments.checkpoint!r} is a "
            f"{config.model_type} model, which reads a text otherwise. Give a block-diffusion student."
        )
    with without_progress_bars():
        model = load_model(arguments.checkpoint, trainable=False)

    def complete(texts: list[str] | list[Messages]) -> list[str]:
        return generate(
            model,
            tokenizer,
            texts,
            max_new_tokens=arguments.max_new_tokens,
            block_size=block_size,
            steps_per_block=arguments.steps_per_block,
            temperature=arguments.temperature,
            seed=arguments.seed,
        )

    if not prompts:
        _converse(lambda messages: complete([messages])[0])
    elif arguments.chat:
        print("\n\n".join(complete([[_message("user", prompt)] for prompt in prompts])))
    else:
        completions = zip(prompts, complete(prompts), strict=True)
        print("\n\n".join(prompt + completion for prompt, completion in completions))
    return 0


def _check_finished(folder: Path) -> None:
    """Refuse a run that is not finished: its student is in its checkpoints alone."""
    from tide.training.checkpoints import checkpoints_in, latest_complete_checkpoint

    if (folder / "config.json").is_file() or not checkpoints_in(folder):
        return
    newest = latest_complete_checkpoint(folder)
    remedy = f"Sample the newest undamaged one, {str(newest)!r}, or" if newest else "All are damaged;"
    raise ValueError(
        f"sample: {str(folder)!r} is an unfinished run, with checkpoints but no config.json. {remedy} finish "
        "it by `tide distill --resume`."
    )


def _read(path: str) -> str:
    """A file, or the standard input (-); `generate` reports bytes that are no UTF-8."""
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    return content.decode(errors="surrogateescape")


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _converse(reply: Callable[[Messages], str]) -> None:
    """Answer the lines of the standard input, each with all that was said before."""
    sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    cue = "> " if sys.stdin.isatty() and sys.stdout.isatty() else ""
    said: Messages = []
    while line := _line(cue):
        asked = [*said, _message("user", line)]
        try:
            answer = reply(asked)
        except KeyboardInterrupt as stop:
            if isinstance(stop, Terminated):
                raise
            to_stderr("\ntide sample: reply stopped; the conversation goes on without it and its message")
            continue
        print(answer, flush=True)
        said = [*asked, _message("assistant", answer)]


def _line(cue: str) -> str:
    """The next line without space around it; empty at the end of the input."""
    try:
        return input(cue).strip()
    except EOFError:
        print(end="\n" if cue else "")
        return ""

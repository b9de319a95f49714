"""For trials: tiny checkpoints, uninterrupted runs, commands that can be killed, damage to files."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.chat import make_chat_tokenizer
from tests.flow.recipes import tiny_recipe, tiny_values
from tests.flow.test_resume import LONG
from tests.tiny import make_tokenizer, save_checkpoint, save_checkpoints
from tide.cli.main import main
from tide.config import Recipe, load_recipe

if TYPE_CHECKING:
    import random

    from tests.tiny import TinyCheckpoints

# A fork server has imported everything: a command starts at once, and is a process to kill.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["tests.torture.lab", "tide.pipeline", "transformers.models.qwen3.modeling_qwen3", "torch._dynamo"]
)
SECONDS = 120  # a command that takes longer hangs
METHODS = ("none", "kl", "tide_shared", "tide_cross")


class Ended(NamedTuple):
    """Exit status, and what a command wrote."""

    status: int
    out: str
    err: str


class Command:
    """`tide ...` in a process of its own, started."""

    def __init__(self, folder: Path, arguments: tuple[object, ...]) -> None:
        self.streams = folder / "stdout", folder / "stderr"
        given = [str(argument) for argument in arguments]
        self.process = FORKS.Process(target=_command, args=(given, *map(str, self.streams)))
        self.process.start()

    def kill(self, after: float) -> bool:
        """SIGKILL after so many seconds; False if it has ended before."""
        self.process.join(after)
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def end(self) -> Ended:
        """Wait for it; it neither hangs, nor crashes, nor ends by an unexpected error."""
        self.process.join(SECONDS)
        assert not self.kill(0), f"still runs after {SECONDS} s"
        ended = Ended(self.process.exitcode, *(path.read_text(errors="replace") for path in self.streams))
        assert ended.status in (0, 2), f"status {ended.status}: {ended.err.strip()[-300:]}"
        assert "Traceback" not in ended.err, ended.err[-300:]
        return ended

    def refused(self, *, names: object = "") -> Ended:
        """Wait for an error of one line, which contains `names`."""
        ended = self.end()
        lines = [line for line in ended.err.splitlines() if line.startswith("tide ")]
        assert ended.status == 2 and len(lines) == 1, f"status {ended.status}, {lines}"
        assert str(names) in lines[0], f"{str(names)!r} is not in: {lines[0]}"
        return ended


def _command(arguments: list[str], *streams: str) -> None:
    os.chdir(Path(streams[0]).parent)
    for number, path in enumerate(streams, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.exit(main(arguments))


@dataclass(eq=False)
class Lab:
    """A folder that goes when all trials are done."""

    folder: Path

    @cached_property
    def checkpoints(self) -> TinyCheckpoints:
        words, lines = make_tokenizer(300), make_tokenizer(340, words=False)
        return save_checkpoints(self.folder / "checkpoints", words, lines)

    @cached_property
    def chat_recipe(self) -> Path:
        """The recipe of a student with a chat template."""
        student = save_checkpoint(self.folder / "chat", make_chat_tokenizer())
        values = tiny_values(self.checkpoints, self.folder / "chat-run") | {"student": {"path": str(student)}}
        path = self.folder / "chat.yaml"
        path.write_text(Recipe.from_dict(values).to_yaml())
        return path

    def new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def tide(self, *arguments: object) -> Command:
        """Start a command."""
        return Command(self.new_folder(), arguments)

    @cache  # noqa: B019 - one lab
    def whole(self, method: str) -> tuple[Recipe, Path, float]:
        """An uninterrupted run of eight steps with three checkpoints: its recipe, the file, its seconds."""
        folder = self.new_folder()
        path, output_dir = folder / "recipe.yaml", f"training.output_dir={folder / 'run'}"
        path.write_text(tiny_recipe(self.checkpoints, folder / "unused", method, **LONG).to_yaml())
        start = time.monotonic()
        assert self.tide("distill", path, output_dir).end().status == 0
        return load_recipe(path, [output_dir]), path, time.monotonic() - start


def damage(path: Path, draw: random.Random, kinds: str) -> str:
    """Flip bits of up to three bytes, cut, empty or remove a file; says which."""
    kind, content = draw.choice(kinds.split()), bytearray(path.read_bytes())
    if kind == "remove":
        path.unlink()
        return f"{path.name}: removed"
    if kind == "flip":
        for place in draw.sample(range(len(content)), draw.randint(1, 3)):
            content[place] ^= draw.randrange(1, 256)
    path.write_bytes(content[: {"cut": draw.randrange(len(content)), "empty": 0}.get(kind)])
    return f"{path.name}: {kind}"

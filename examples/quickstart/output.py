"""The output directory of a quickstart: nothing that it did not write is written over or removed."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# The first file that a quickstart writes.
RESULTS_FILE = "results.json"
_STUDENT = (
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|summary|manifest|"
    r"trainer_state)\.json|recipe\.yaml|inputs\.sha256|model\.safetensors|chat_template\.jinja|"
    r"training_args\.bin|(optimizer|scheduler)\.pt|rng_state(_\d+)?\.pth|\.tide\.(lock|writer)"
)
_OURS = re.compile(
    r"results\.json|report\.html|tables\.md|(differences|lambda|curves-[\w-]+)\.png|"
    r"data/(train|held_out|evaluated)\.jsonl|(same|cross)/(start|[a-z_-]+-seed\d+)\.log|"
    rf"(same|cross)/[a-z_-]+-seed\d+/((checkpoint-\d+[^/]*|\.tide-saving)/)*({_STUDENT})(\.new)?"
)


def claim(directory: Path, *, fresh: bool) -> None:
    """Check that a quickstart may write to a directory; `fresh` removes an earlier one's files.

    Raises:
        ValueError: the directory is a file or holds something else; with `fresh`, beside a quickstart, too.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"quickstart: {str(directory)!r} is a file. Name a directory by --output-dir.")
    paths = sorted(directory.rglob("*")) if directory.is_dir() else []
    if paths and not (directory / RESULTS_FILE).is_file():
        raise ValueError(
            f"quickstart: {str(directory)!r} holds files of no quickstart, such as {paths[0].name!r}. Name a "
            "new or empty directory by --output-dir."
        )
    if not fresh:
        return
    files = [path for path in paths if not path.is_dir() or path.is_symlink()]
    for path in files:
        if not _OURS.fullmatch(path.relative_to(directory).as_posix()):
            raise ValueError(
                f"quickstart: {str(path)!r} is not a quickstart's, so --fresh removes nothing. Move it "
                "elsewhere, or name another directory by --output-dir."
            )
    # The first file goes last: what an interruption leaves is a quickstart.
    for path in sorted(files, key=lambda path: path == directory / RESULTS_FILE):
        path.unlink()
    for path in reversed(paths):
        with suppress(OSError):
            path.rmdir()

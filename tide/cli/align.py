"""tide align TEXT_OR_ROW --student A --teacher B: two tokenizations of a text and the chunks they share.

With --recipe, tokenizers, templates, chunk merging and data come from the recipe.
"""

from __future__ import annotations

import argparse
import sys
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING

from tide.cli.subparsers import count, status_log
from tide.disk import writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from tide.cli.subparsers import Subparsers
    from tide.config import ModelConfig, Recipe
    from tide.data import Source
    from tide.inspection import AlignedRow, Aligner, ChunkStatistics, DataSet, MixedRows

_log = status_log("align")


def add_parser(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "align",
        help="show two tokenizations of a text, and statistics over a data set",
        description="Show how two tokenizers split a text and which chunks they share, as `tide prepare` "
        "aligns them before it truncates. With --data, or with --recipe and no text, print statistics of a "
        "data set.",
    )
    parser.add_argument(
        "text",
        metavar="TEXT_OR_ROW",
        nargs="?",
        help=r"text, in which \n stands for a line break; or a row as JSON, such as "
        """'{"messages": [...]}'; or - to read one of them from the standard input""",
    )
    parser.add_argument(
        "--recipe",
        metavar="RECIPE.yaml",
        type=expanduser,
        help="take tokenizers, template_arguments, chunk_merging and, without TEXT_OR_ROW and --data, the "
        "data from it",
    )
    for role in ("student", "teacher"):
        parser.add_argument(
            f"--{role}",
            type=expanduser,
            help=f"folder or hub id of the {role}'s tokenizer (default: the recipe's)",
        )
    parser.add_argument(
        "--chunk-merging",
        choices=("none", "words", "length"),
        help="as in a recipe (default: the recipe's, with its limits; none without a recipe)",
    )
    for unit in ("tokens", "bytes"):
        parser.add_argument(
            f"--chunk-max-{unit}", type=count, metavar="N", help=f"{unit} of a merged chunk at most"
        )
    data = parser.add_argument_group("statistics over a data set")
    data.add_argument(
        "--data", metavar="SOURCE", type=expanduser, help="file, directory, or a data set of the hub"
    )
    data.add_argument("--subset", help="of --data: the configuration of a data set on the hub")
    data.add_argument("--split", help="of --data (default: train)")
    data.add_argument(
        "--rows",
        type=count,
        default=2000,
        metavar="N",
        help="rows, evenly from all of the data (default: %(default)s)",
    )
    data.add_argument(
        "--show", type=count, default=0, metavar="N", help="also show the first N of these rows"
    )
    output = parser.add_argument_group("files")
    output.add_argument(
        "--html", type=_file(".html", ".htm"), metavar="FILE.html", help="the output as a page"
    )
    output.add_argument("--plot", type=_file(".png"), metavar="FILE.png", help="histograms of the chunks")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from tide.config import load_recipe

    recipe = None if arguments.recipe is None else load_recipe(arguments.recipe)
    _check(arguments, recipe)
    from rich.console import Console

    from tide.inspection import alignment_page, merging_text, print_row, print_statistics

    chunk_images = _chunk_images(arguments)
    align = _aligner(arguments, recipe)
    shown, statistics, data = _aligned(arguments, recipe, align)
    console = Console()
    for number, (heading, row) in enumerate(shown, 1):
        if len(shown) > 1:
            console.print(heading, style="bold", highlight=False, markup=False)
        print_row(console, row, legend=number == len(shown))
    if shown:
        console.print()
    print_statistics(console, statistics, data, longest=statistics.rows > 1)
    images = chunk_images(statistics) if chunk_images and statistics.num_chunks else None
    if arguments.plot is not None:
        if images is None:
            raise ValueError("align: --plot: no row has a chunk.")
        with writing(arguments.plot):
            arguments.plot.write_bytes(images[0])
    if arguments.html is not None:
        student, teacher = (tokenizer.name_or_path for tokenizer in align.tokenizers)
        page = alignment_page(
            shown,
            statistics,
            student=student,
            teacher=teacher,
            merging=merging_text(align.merging),
            data=data,
            images=images,
        )
        with writing(arguments.html):
            arguments.html.write_text(page, encoding="utf-8")
    return 0


def _file(*suffixes: str) -> Callable[[str], Path]:
    """The type of an option that names a file to write."""

    def parse(text: str) -> Path:
        path = Path(expanduser(text))
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise argparse.ArgumentTypeError(f"cannot write {text!r}: name a file in a folder that exists")
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r}: the name must end in {' or '.join(suffixes)}")
        return path

    return parse


def _reads_data(arguments: argparse.Namespace) -> bool:
    return arguments.data is not None or (arguments.recipe is not None and arguments.text is None)


def _check(arguments: argparse.Namespace, recipe: Recipe | None) -> None:
    """Check the options against each other, before tokenizers and data load."""
    if arguments.text is None and not _reads_data(arguments):
        raise ValueError("align: expected a text or row, --data SOURCE, or --recipe RECIPE.yaml; got none.")
    if arguments.show and not _reads_data(arguments):
        raise ValueError("align: --show is for rows of a data set; got only a text. Add --data SOURCE.")
    for name in ("subset", "split"):
        if getattr(arguments, name) is not None and arguments.data is None:
            raise ValueError(f"align: --{name} needs --data SOURCE.")
    limits = {"tokens": arguments.chunk_max_tokens, "bytes": arguments.chunk_max_bytes}
    given = [f"--chunk-max-{unit} {limit}" for unit, limit in limits.items() if limit is not None]
    merging = arguments.chunk_merging or "none"
    if merging != "words" and (merging == "length") != bool(given):
        raise ValueError(
            f"align: got --chunk-merging {merging} and {' and '.join(given) or 'no limit'}: length needs "
            "--chunk-max-tokens N or --chunk-max-bytes N, words may have them, none has no chunks to limit."
        )
    for role in ("student", "teacher"):
        if getattr(arguments, role) is None and getattr(recipe, role, None) is None:
            where = "not given" if recipe is None else f"not in {arguments.recipe}"
            raise ValueError(
                f"align: expected two tokenizers, and the {role}'s is {where}. Add --{role}, or "
                "--recipe RECIPE.yaml with both models."
            )


def _chunk_images(arguments: argparse.Namespace) -> Callable[[ChunkStatistics], tuple[bytes, bytes]] | None:
    """What draws the figures, if a file is to show them."""
    if not (arguments.html or arguments.plot):
        return None
    try:
        from tide.inspection.histogram import chunk_images
    except ImportError as error:
        if arguments.plot:
            raise ValueError(f"align: --plot: {error}") from error
        _log(f"no figures: {error}")  # The page works without.
        return None
    return chunk_images


def _aligner(arguments: argparse.Namespace, recipe: Recipe | None) -> Aligner:
    """Take tokenizers, merging and template arguments from the options, or else from the recipe."""
    from tide.config import DataConfig, at_key
    from tide.inspection import Aligner
    from tide.models import load_tokenizer

    tokenizers, template_arguments = [], {}
    for role in ("student", "teacher"):
        path, key = getattr(arguments, role), f"--{role}"
        model: ModelConfig | None = getattr(recipe, role, None)
        if path is None and model is not None:
            path, key = model.tokenizer_path, f"{role}.{model.tokenizer_key}"
        with at_key(key):
            tokenizers.append(load_tokenizer(path, needs_mask=False))
        if model is not None:
            template_arguments[role] = model.template_arguments
    names = ("chunk_merging", "chunk_max_bytes", "chunk_max_tokens")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    merging = recipe.data if recipe is not None and not given else DataConfig(**given)
    return Aligner(*tokenizers, merging=merging, template_arguments=template_arguments)


def _aligned(
    arguments: argparse.Namespace, recipe: Recipe | None, align: Aligner
) -> tuple[list[tuple[str, AlignedRow]], ChunkStatistics, DataSet | None]:
    """Align the text and a sample of the data: the rows to show under their headings, and statistics."""
    from rich.console import Console
    from rich.progress import track

    from tide.data import Rejected
    from tide.inspection import ChunkStatistics, sampled, typed_row

    shown: list[tuple[str, AlignedRow]] = []
    statistics = ChunkStatistics()
    if arguments.text is not None:
        is_piped = arguments.text == "-"
        text = sys.stdin.read() if is_piped else arguments.text
        (row,) = align([typed_row(text, escapes=not is_piped, log=_log)])
        if isinstance(row, Rejected):
            raise ValueError(f"align: {row}")
        shown.append(("The text", row))
        if not _reads_data(arguments):
            statistics.add(row)
            return shown, statistics, None
    source, data = _open(arguments, recipe)
    num_shown = len(shown) + arguments.show
    rows, total = sampled(source, arguments.rows, align), min(arguments.rows, len(source))
    console = Console(stderr=True)
    # Without a terminal, a bar would be an empty line.
    silent = not console.is_terminal
    for number, row in track(rows, "aligning", total, console=console, transient=True, disable=silent):
        statistics.add(row)
        if len(shown) < num_shown and not isinstance(row, Rejected):
            shown.append((source.where(number), row))
    return shown, statistics, data


def _open(arguments: argparse.Namespace, recipe: Recipe | None) -> tuple[Source | MixedRows, DataSet]:
    """Open --data, or else the recipe's; refuse a split or subset that --data does not have."""
    from tide.config import at_key
    from tide.data import files_at, open_source
    from tide.inspection import DataSet, MixedRows

    if arguments.data is None:
        assert recipe is not None
        mixed = MixedRows.of(recipe)
        names = ", ".join(dict.fromkeys(source.path for source in recipe.data.mixture))
        return mixed, DataSet(f"{arguments.recipe} ({names})", len(mixed))
    options = {name: given for name in ("subset", "split") if (given := getattr(arguments, name))}
    try:
        files = files_at(arguments.data, split="")
    except ValueError:  # The source has splits, or is missing, which `open_source` reports.
        files = []  # as of a data set on the hub, which may have both
    if files and options:
        name, given = options.popitem()
        raise ValueError(
            f"align: --{name} {given}: {arguments.data!r} has no {name}s and is read whole. "
            f"Leave --{name} out."
        )
    with at_key("--data"):
        rows = open_source(arguments.data, **options)
    name = ", ".join([arguments.data, *map(" ".join, options.items())])
    return rows, DataSet(name, len(rows))

"""tide align TEXT_OR_ROW --student A --teacher B: two tokenizations of a text and the chunks they share.

With --recipe, tokenizers, templates, chunk merging and data come from the recipe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tide.cli.subparsers import count, status_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from tide.cli.subparsers import Subparsers
    from tide.config import DataConfig, Recipe
    from tide.inspection import AlignedRow, Aligner, ChunkStatistics, DataSet
    from tide.inspection.inputs import Rows

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
        help="take tokenizers, template_arguments, chunk_merging and, without TEXT_OR_ROW and --data, the "
        "data from it",
    )
    for role in ("student", "teacher"):
        parser.add_argument(
            f"--{role}", help=f"folder or hub id of the {role}'s tokenizer (default: the recipe's)"
        )
    parser.add_argument(
        "--chunk-merging",
        choices=("none", "words", "length"),
        help="as in a recipe (default: the recipe's, with its limits; none without a recipe)",
    )
    for unit in ("tokens", "bytes"):
        parser.add_argument(
            f"--chunk-max-{unit}", type=count, metavar="N", help=f"{unit} of a joined chunk at most"
        )
    data = parser.add_argument_group("statistics over a data set")
    data.add_argument("--data", metavar="SOURCE", help="file, directory, or a data set of the hub")
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
    _check(arguments)
    from tide.config import at_key, load_recipe

    recipe = None if arguments.recipe is None else load_recipe(arguments.recipe)
    paths, merging = _tokenizer_paths(arguments, recipe), _merging(arguments, recipe)
    from rich.console import Console

    from tide.inspection import Aligner, ChunkStatistics, print_row, print_statistics
    from tide.models import load_tokenizer

    tokenizers, template_arguments = [], {}
    for role, (path, key) in paths.items():
        with at_key(key):
            tokenizers.append(load_tokenizer(path, needs_mask=False))
        if (model := getattr(recipe, role, None)) is not None:
            template_arguments[role] = model.template_arguments
    align = Aligner(*tokenizers, merging=merging, template_arguments=template_arguments)
    statistics, data = ChunkStatistics(), None
    shown = [] if arguments.text is None else [("The text", _aligned_text(arguments.text, align))]
    if _reads_data(arguments):
        rows, data = _open(arguments, recipe)
        shown += _sample(arguments, rows, align, statistics)
    else:
        statistics.add(shown[0][1])
    console = Console()
    for number, (heading, row) in enumerate(shown, 1):
        if len(shown) > 1:
            console.print(heading, style="bold", highlight=False, markup=False)
        print_row(console, row, legend=number == len(shown))
    if shown:
        console.print()
    print_statistics(console, statistics, data, longest=statistics.rows > 1)
    given = {role: path for role, (path, _) in paths.items()}
    _write_files(arguments, given, merging, statistics, data, shown)
    return 0


def _file(*suffixes: str) -> Callable[[str], Path]:
    """The type of an option that names a file to write."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise argparse.ArgumentTypeError(f"cannot write {text!r}: name a file in a folder that exists")
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{text!r}: the name must end in {' or '.join(suffixes)}")
        return path

    return parse


def _reads_data(arguments: argparse.Namespace) -> bool:
    return arguments.data is not None or (arguments.recipe is not None and arguments.text is None)


def _check(arguments: argparse.Namespace) -> None:
    """Check the options against each other, before anything loads."""
    if arguments.text is None and not _reads_data(arguments):
        raise ValueError("align: expected a text or row, --data SOURCE, or --recipe RECIPE.yaml; got none.")
    if arguments.show and not _reads_data(arguments):
        raise ValueError("align: --show is for rows of a data set; got only a text. Add --data SOURCE.")
    for name in ("subset", "split"):
        if getattr(arguments, name) is not None and arguments.data is None:
            raise ValueError(f"align: --{name} needs --data SOURCE.")
    limits = {"tokens": arguments.chunk_max_tokens, "bytes": arguments.chunk_max_bytes}
    given = [f"--chunk-max-{unit} {limit}" for unit, limit in limits.items() if limit is not None]
    merging = arguments.chunk_merging
    if merging == "length" and not given:
        raise ValueError(
            "align: --chunk-merging length needs a limit. Add --chunk-max-tokens N or "
            "--chunk-max-bytes N, or take --chunk-merging words."
        )
    if merging in (None, "none") and given:
        raise ValueError(
            f"align: {' and '.join(given)} would limit joined chunks, and --chunk-merging is "
            f"{merging or 'not given'}. Add --chunk-merging words or length, or leave the limit out."
        )
    if arguments.plot is not None:
        try:
            import tide.inspection.figures  # noqa: F401
        except ImportError as error:
            raise ValueError(f"align: --plot: {error}") from error


def _tokenizer_paths(arguments: argparse.Namespace, recipe: Recipe | None) -> dict[str, tuple[str, str]]:
    """Each side's tokenizer, and the option or recipe key that names it."""
    paths = {}
    for role in ("student", "teacher"):
        option, model = getattr(arguments, role), getattr(recipe, role, None)
        if option is not None:
            paths[role] = option, f"--{role}"
        elif model is not None:
            paths[role] = model.tokenizer_path, f"{role}.{model.tokenizer_key}"
        else:
            where = "not given" if recipe is None else f"not in {arguments.recipe}"
            raise ValueError(
                f"align: expected two tokenizers, and the {role}'s is {where}. Add --{role}, or "
                "--recipe RECIPE.yaml with both models."
            )
    return paths


def _merging(arguments: argparse.Namespace, recipe: Recipe | None) -> DataConfig:
    """How to join chunks: by the options, or else as the recipe does."""
    from tide.config import DataConfig

    names = ("chunk_merging", "chunk_max_bytes", "chunk_max_tokens")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return recipe.data if recipe is not None and not given else DataConfig(**given)


def _aligned_text(text: str, align: Aligner) -> AlignedRow:
    from tide.inspection import AlignedRow, typed_row

    is_piped = text == "-"
    typed = typed_row(sys.stdin.read() if is_piped else text, escapes=not is_piped, log=_log)
    (row,) = align([typed])
    if not isinstance(row, AlignedRow):
        raise ValueError(f"align: {row.reason}: {row.detail}")
    return row


def _open(arguments: argparse.Namespace, recipe: Recipe | None) -> tuple[Rows, DataSet]:
    """The rows of --data, or else of the recipe."""
    from tide.config import at_key
    from tide.data import open_source
    from tide.inspection import DataSet, MixedRows

    if arguments.data is None:
        assert recipe is not None
        mixed = MixedRows.of(recipe)
        names = ", ".join(dict.fromkeys(source.path for source in recipe.data.mixture))
        return mixed, DataSet(f"{arguments.recipe} ({names})", len(mixed))
    _check_parts_of_data(arguments)
    with at_key("--data"):
        rows = open_source(arguments.data, subset=arguments.subset, split=arguments.split or "train")
    options = [f"{name} {given}" for name in ("subset", "split") if (given := getattr(arguments, name))]
    return rows, DataSet(", ".join([arguments.data, *options]), len(rows))


def _check_parts_of_data(arguments: argparse.Namespace) -> None:
    """Refuse a split or subset that the source does not have: it would be ignored."""
    from tide.data import files_at

    try:
        files = files_at(arguments.data, split="")
    except ValueError:  # The source has splits, or is missing, which `open_source` reports.
        return
    # A data set on the hub has no files here and may have both.
    for name in ("split", "subset"):
        given = getattr(arguments, name)
        if files and given is not None:
            raise ValueError(
                f"align: --{name} {given}: {arguments.data!r} has no {name}s and is read whole. Leave "
                f"--{name} out."
            )


def _sample(
    arguments: argparse.Namespace, source: Rows, align: Aligner, statistics: ChunkStatistics
) -> list[tuple[str, AlignedRow]]:
    """Count a sample of the data; return the rows to show, with their places."""
    from rich.console import Console
    from rich.progress import track

    from tide.inspection import AlignedRow, sampled

    shown: list[tuple[str, AlignedRow]] = []
    rows, total = sampled(source, arguments.rows, align), min(arguments.rows, len(source))
    console = Console(stderr=True)
    # Without a terminal, a bar would be an empty line.
    silent = not console.is_terminal
    for number, row in track(rows, "aligning", total, console=console, transient=True, disable=silent):
        statistics.add(row)
        if len(shown) < arguments.show and isinstance(row, AlignedRow):
            shown.append((source.where(number), row))
    return shown


def _write_files(
    arguments: argparse.Namespace,
    tokenizers: dict[str, str],
    merging: DataConfig,
    statistics: ChunkStatistics,
    data: DataSet | None,
    shown: list[tuple[str, AlignedRow]],
) -> None:
    from tide.inspection import alignment_page, merging_text

    images = None
    if statistics.num_chunks and (arguments.html or arguments.plot):
        try:
            from tide.inspection.histogram import chunk_images
        except ImportError as error:  # The page works without.
            _log(f"no figures: {error}")
        else:
            images = chunk_images(statistics)
    if arguments.plot is not None:
        if images is None:
            raise ValueError("align: --plot: no row has a chunk.")
        arguments.plot.write_bytes(images[0])
    if arguments.html is not None:
        page = alignment_page(
            shown, statistics, **tokenizers, merging=merging_text(merging), data=data, images=images
        )
        arguments.html.write_text(page, encoding="utf-8")

"""tide align TEXT_OR_ROW --student A --teacher B: two tokenizations of a text and the chunks they share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tide.cli.subparsers import count

if TYPE_CHECKING:
    from tide.cli.subparsers import Subparsers
    from tide.inspection import AlignedRow, Aligner, ChunkStatistics


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "align",
        help="show two tokenizations of a text, and statistics over a data set",
        description="Show how two tokenizers cut a text, and the chunks that both share, as `tide prepare` "
        "aligns them without template_arguments. With --data, say what the chunks of a data set are like.",
    )
    parser.add_argument(
        "text",
        metavar="TEXT_OR_ROW",
        nargs="?",
        help=r"text, in which \n stands for a line break; or a row as JSON, such as "
        """'{"messages": [...]}'; or - to read one of them from the standard input""",
    )
    parser.add_argument("--student", required=True, help="folder or hub id of the student's tokenizer")
    parser.add_argument("--teacher", required=True, help="folder or hub id of the teacher's tokenizer")
    parser.add_argument(
        "--chunk-merging", choices=("none", "words"), default="none", help="as in a recipe (default: none)"
    )
    data = parser.add_argument_group("statistics over a data set")
    data.add_argument("--data", metavar="SOURCE", help="file, directory, or a data set of the hub")
    data.add_argument("--subset", help="the configuration of a data set on the hub")
    data.add_argument("--split", default="train", help="default: %(default)s")
    data.add_argument(
        "--rows", type=count, default=2000, help="rows, evenly from all of the data (default: %(default)s)"
    )
    data.add_argument("--show", type=count, default=0, help="also show the first so many of these rows")
    output = parser.add_argument_group("files")
    output.add_argument("--html", type=Path, metavar="FILE", help="what is shown, as a page")
    output.add_argument("--plot", type=Path, metavar="FILE.png", help="histograms of the chunks")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    _check(arguments)
    from rich.console import Console

    from tide.inspection import Aligner, ChunkStatistics, print_row, print_statistics, typed_row
    from tide.models import load_tokenizer
    from tide.preparation import Dropped

    paths = (arguments.student, arguments.teacher)
    student, teacher = (load_tokenizer(path, needs_mask=False) for path in paths)
    align = Aligner(student, teacher, merge=arguments.chunk_merging)
    statistics, shown = ChunkStatistics(), []
    if arguments.text is not None:
        is_piped = arguments.text == "-"
        typed = typed_row(sys.stdin.read() if is_piped else arguments.text, escapes=not is_piped)
        (row,) = align([typed])
        if isinstance(row, Dropped):
            raise ValueError(f"align: {row.reason}: {row.detail}")
        shown.append(("The text", row))
    if arguments.data is not None:
        shown += _read_data(arguments, align, statistics)
    else:
        statistics.add(row for _, row in shown)
    console = Console()
    for heading, row in shown:
        if len(shown) > 1:
            console.print(heading, style="bold", highlight=False, markup=False)
        print_row(console, row)
        console.print()
    print_statistics(console, statistics, longest=statistics.rows > 1)
    _write(arguments, statistics, shown)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """What can be known before anything is loaded."""
    if arguments.text is None and arguments.data is None:
        raise ValueError("align: expected a text or row, --data SOURCE, or both; got neither.")
    if arguments.show and arguments.data is None:
        raise ValueError("align: --show is of the rows of --data SOURCE, which is not given.")
    for path in filter(None, (arguments.html, arguments.plot)):
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise ValueError(f"align: cannot write {str(path)!r}. Name a file in a folder that exists.")
    if arguments.plot is not None:
        try:
            import tide.presentation.figures  # noqa: F401
        except ImportError as error:
            raise ValueError(f"align: --plot: {error}") from error


def _read_data(
    arguments: argparse.Namespace, align: Aligner, statistics: ChunkStatistics
) -> list[tuple[str, AlignedRow]]:
    """Counts a sample of the data; the rows of it that are to be shown, with where they stand."""
    from rich.console import Console
    from rich.progress import track

    from tide.data import open_source
    from tide.inspection import sampled
    from tide.preparation import Dropped

    source = open_source(arguments.data, subset=arguments.subset, split=arguments.split)
    shown: list[tuple[str, AlignedRow]] = []
    rows, total = sampled(source, arguments.rows, align), min(arguments.rows, len(source))
    for number, row in track(rows, "aligning", total, console=Console(stderr=True), transient=True):
        statistics.add([row])
        if len(shown) < arguments.show and not isinstance(row, Dropped):
            shown.append((source.where(number), row))
    return shown


def _write(
    arguments: argparse.Namespace, statistics: ChunkStatistics, shown: list[tuple[str, AlignedRow]]
) -> None:
    from tide.inspection import alignment_page

    images = None
    if statistics.num_chunks and (arguments.html or arguments.plot):
        try:
            from tide.inspection.histogram import chunk_images
        except ImportError as error:  # A page does without them.
            print(f"tide align: no figures: {error}", file=sys.stderr)
        else:
            images = chunk_images(statistics)
    if arguments.plot is not None:
        if images is None:
            raise ValueError("align: --plot: no row has a chunk.")
        arguments.plot.write_bytes(images[0])
    if arguments.html is not None:
        page = alignment_page(
            shown,
            statistics,
            student=arguments.student,
            teacher=arguments.teacher,
            of_data=arguments.data is not None,
            images=images,
        )
        arguments.html.write_text(page, encoding="utf-8")

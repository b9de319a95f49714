"""tide align TEXT_OR_ROW --student A --teacher B: two tokenizations of a text and the chunks they share.

With --recipe, the tokenizers and all that their texts hang on are the recipe's, and so are the data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from tide.cli.subparsers import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tide.cli.subparsers import Subparsers
    from tide.config import Recipe
    from tide.inspection import AlignedRow, Aligner, ChunkStatistics, DataSet
    from tide.inspection.inputs import Rows

SUFFIXES = {"html": (".html", ".htm"), "plot": (".png",)}  # of the files that options name


class Merging(NamedTuple):
    """How chunks are joined, as `tide.alignment.align_spans` takes it."""

    merge: Literal["none", "words", "length"] = "none"
    max_bytes: int | None = None
    max_tokens: int | None = None

    def __str__(self) -> str:
        limits = {"bytes": self.max_bytes, "tokens": self.max_tokens}
        given = [f"{limit} {unit}" for unit, limit in limits.items() if limit is not None]
        return self.merge + (f", at most {' and '.join(given)}" if given else "")


class _Setup(NamedTuple):
    """What texts are aligned by, from options and recipe."""

    student: str
    teacher: str
    given_by: Mapping[str, str]  # role -> the option or the recipe's key that names its tokenizer
    merging: Merging
    template_arguments: Mapping[str, Mapping[str, str | int | float | bool]]


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "align",
        help="show two tokenizations of a text, and statistics over a data set",
        description="Show how two tokenizers cut a text, and the chunks that both share, as `tide prepare` "
        "aligns them before it cuts anything to a length. With --data, or with --recipe and no text, say "
        "what the chunks of a data set are like.",
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
        "--rows", type=count, default=2000, help="rows, evenly from all of the data (default: %(default)s)"
    )
    data.add_argument("--show", type=count, default=0, help="also show the first so many of these rows")
    output = parser.add_argument_group("files")
    output.add_argument("--html", type=Path, metavar="FILE.html", help="what is shown, as a page")
    output.add_argument("--plot", type=Path, metavar="FILE.png", help="histograms of the chunks")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    _check(arguments)
    from tide.config import at_key, load_recipe

    recipe = None if arguments.recipe is None else load_recipe(arguments.recipe)
    setup = _setup(arguments, recipe)
    from rich.console import Console

    from tide.data import Rejected
    from tide.inspection import Aligner, ChunkStatistics, print_row, print_statistics, typed_row
    from tide.models import load_tokenizer

    tokenizers = []
    for role, path in (("student", setup.student), ("teacher", setup.teacher)):
        with at_key(setup.given_by[role]):
            tokenizers.append(load_tokenizer(path, needs_mask=False))
    align = Aligner(*tokenizers, **setup.merging._asdict(), template_arguments=setup.template_arguments)
    statistics, shown, data = ChunkStatistics(), [], None
    if arguments.text is not None:
        is_piped = arguments.text == "-"
        text = sys.stdin.read() if is_piped else arguments.text
        typed = typed_row(text, escapes=not is_piped, say=_say)
        (row,) = align([typed])
        if isinstance(row, Rejected):
            raise ValueError(f"align: {row.reason}: {row.detail}")
        shown.append(("The text", row))
    if _reads_data(arguments):
        rows, data = _opened(arguments, recipe)
        shown += _read_data(arguments, rows, align, statistics)
    else:
        statistics.add(row for _, row in shown)
    console = Console()
    for number, (heading, row) in enumerate(shown, 1):
        is_last = number == len(shown)
        if len(shown) > 1:
            console.print(heading, style="bold", highlight=False, markup=False)
        print_row(console, row, legend=is_last)
        if is_last:
            console.print()
    print_statistics(console, statistics, data, longest=statistics.rows > 1)
    _write(arguments, setup, statistics, data, shown)
    return 0


def _reads_data(arguments: argparse.Namespace) -> bool:
    """There are statistics of a data set, and not of the text alone."""
    return arguments.data is not None or (arguments.recipe is not None and arguments.text is None)


def _check(arguments: argparse.Namespace) -> None:
    """What can be known before anything is loaded."""
    if arguments.text is None and not _reads_data(arguments):
        raise ValueError("align: expected a text or row, --data SOURCE, or --recipe RECIPE.yaml; got none.")
    if arguments.show and not _reads_data(arguments):
        raise ValueError(
            "align: --show is of the rows of a data set, and only a text is given. Add --data SOURCE."
        )
    for name in ("subset", "split"):
        if getattr(arguments, name) is not None and arguments.data is None:
            raise ValueError(f"align: --{name} is of --data SOURCE, which is not given.")
    _check_merging(arguments)
    for name, suffixes in SUFFIXES.items():
        path = getattr(arguments, name)
        if path is None:
            continue
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise ValueError(f"align: cannot write {str(path)!r}. Name a file in a folder that exists.")
        if path.suffix.lower() not in suffixes:
            raise ValueError(
                f"align: --{name} writes {suffixes[0][1:].upper()}, got {str(path)!r}. "
                f"Name a file that ends in {' or '.join(suffixes)}."
            )
    if arguments.plot is not None:
        try:
            import tide.presentation.figures  # noqa: F401
        except ImportError as error:
            raise ValueError(f"align: --plot: {error}") from error


def _check_merging(arguments: argparse.Namespace) -> None:
    """As `tide.alignment.merging.check_merging`, by the names of the options."""
    limits = {"tokens": arguments.chunk_max_tokens, "bytes": arguments.chunk_max_bytes}
    given = [f"--chunk-max-{unit} {limit}" for unit, limit in limits.items() if limit is not None]
    if arguments.chunk_merging == "length" and not given:
        raise ValueError(
            "align: --chunk-merging length joins chunks up to a limit, and none is given. Add "
            "--chunk-max-tokens N or --chunk-max-bytes N, or take --chunk-merging words."
        )
    if arguments.chunk_merging in (None, "none") and given:
        merging = "not given" if arguments.chunk_merging is None else "none"
        raise ValueError(
            f"align: {' and '.join(given)} would limit joined chunks, and --chunk-merging is {merging}. Add "
            "--chunk-merging words or length, or leave the limit out."
        )


def _setup(arguments: argparse.Namespace, recipe: Recipe | None) -> _Setup:
    """Options go before the recipe."""
    models = {} if recipe is None else {"student": recipe.student, "teacher": recipe.teacher}
    # Within one vocabulary, too, the teacher is shown by its own template; `tide prepare` does not apply it.
    of_recipe = {role: model for role, model in models.items() if model is not None}
    paths, given_by = {}, {}
    for role in ("student", "teacher"):
        paths[role], given_by[role] = getattr(arguments, role), f"--{role}"
        if paths[role] is None and role in of_recipe:
            model = of_recipe[role]
            paths[role], given_by[role] = model.tokenizer_path, f"{role}.{model.tokenizer_key}"
        elif paths[role] is None:
            where = "not given" if recipe is None else f"not in {arguments.recipe}"
            raise ValueError(
                f"align: expected two tokenizers, and the {role}'s is {where}. Add --{role}, or "
                "--recipe RECIPE.yaml with both models."
            )
    variables = {role: model.template_arguments for role, model in of_recipe.items()}
    return _Setup(paths["student"], paths["teacher"], given_by, _merging(arguments, recipe), variables)


def _merging(arguments: argparse.Namespace, recipe: Recipe | None) -> Merging:
    """That of the options; without any, the recipe's."""
    options = (arguments.chunk_merging, arguments.chunk_max_bytes, arguments.chunk_max_tokens)
    if recipe is not None and options == (None, None, None):
        data = recipe.data
        return Merging(data.chunk_merging, data.chunk_max_bytes, data.chunk_max_tokens)
    return Merging(arguments.chunk_merging or "none", *options[1:])


def _opened(arguments: argparse.Namespace, recipe: Recipe | None) -> tuple[Rows, DataSet]:
    """The rows that statistics are of: those of --data, or else of the recipe."""
    from tide.config import at_key
    from tide.data import open_source
    from tide.inspection import DataSet, MixedRows

    rows: Rows
    if arguments.data is not None:
        _check_parts_of_data(arguments)
        split = arguments.split or "train"
        with at_key("--data"):
            rows = open_source(arguments.data, subset=arguments.subset, split=split)
        options = [f"{name} {given}" for name in ("subset", "split") if (given := getattr(arguments, name))]
        return rows, DataSet(", ".join([arguments.data, *options]), len(rows))
    assert recipe is not None
    rows = MixedRows.of(recipe)
    names = ", ".join(dict.fromkeys(source.path for source in recipe.data.mixture))
    return rows, DataSet(f"{arguments.recipe} ({names})", len(rows))


def _check_parts_of_data(arguments: argparse.Namespace) -> None:
    """Refuses a split or subset that would be passed over, yet be named in what is shown."""
    from tide.data import files_at

    try:
        files = files_at(arguments.data, split="")
    except ValueError:  # There are splits, and none is named so; or nothing is there, which is said later.
        return
    # A name on the hub has no files here, and may have both.
    for name in ("split", "subset"):
        given = getattr(arguments, name)
        if files and given is not None:
            raise ValueError(
                f"align: --{name} {given}: {arguments.data!r} has no {name}s and is read whole. Leave "
                f"--{name} out."
            )


def _say(line: str) -> None:
    print(f"tide align: {line}", file=sys.stderr)


def _read_data(
    arguments: argparse.Namespace, source: Rows, align: Aligner, statistics: ChunkStatistics
) -> list[tuple[str, AlignedRow]]:
    """Counts a sample of the data; the rows of it that are to be shown, with where they stand."""
    from rich.console import Console
    from rich.progress import track

    from tide.data import Rejected
    from tide.inspection import sampled

    shown: list[tuple[str, AlignedRow]] = []
    rows, total = sampled(source, arguments.rows, align), min(arguments.rows, len(source))
    console = Console(stderr=True)
    # Without a terminal, a bar would be an empty line.
    silent = not console.is_terminal
    for number, row in track(rows, "aligning", total, console=console, transient=True, disable=silent):
        statistics.add([row])
        if len(shown) < arguments.show and not isinstance(row, Rejected):
            shown.append((source.where(number), row))
    return shown


def _write(
    arguments: argparse.Namespace,
    setup: _Setup,
    statistics: ChunkStatistics,
    data: DataSet | None,
    shown: list[tuple[str, AlignedRow]],
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
            student=setup.student,
            teacher=setup.teacher,
            merging=str(setup.merging),
            data=data,
            images=images,
        )
        arguments.html.write_text(page, encoding="utf-8")

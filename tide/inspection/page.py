"""Self-contained HTML pages: templates, and the page of `tide align`."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from tide.inspection import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tide.inspection.aligned_rows import AlignedRow
    from tide.inspection.statistics import ChunkStatistics
    from tide.inspection.tables import DataSet

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, *, folder: Path = TEMPLATES, **values: Any) -> str:
    """A page from a template in `folder`, which may extend `page.html`; values are text, and escaped."""
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png_uri"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    environment.filters["breakable"] = _breakable
    return environment.get_template(template).render(values)


def _breakable(text: str) -> Markup:
    """The text escaped, with a place to break a line after each separator of a path or name."""
    return Markup(re.sub("([/_])", r"\1<wbr>", str(escape(text))))


def alignment_page(
    rows: Sequence[tuple[str, AlignedRow]],
    statistics: ChunkStatistics,
    *,
    student: str,
    teacher: str,
    merging: str = "none",
    data: DataSet | None = None,
    images: tuple[bytes, bytes] | None = None,
) -> str:
    """The page: the teacher's tokens under the student's, chunk by chunk, and statistics.

    Args:
        rows: headings, and the rows shown under them.
        statistics: of these rows, or of a data set.
        student, teacher: names of the tokenizers.
        merging: how chunks were joined, in words.
        data: the source of the statistics; None if they are of the rows shown.
        images: the histogram as PNG, for a light and for a dark page.
    """
    given = {"student": student, "teacher": teacher, "chunk merging": merging}
    if data is not None:
        given |= {"data": data.name, "statistics of": tables.share_of(statistics, data)}
    # Of a folder its last part; a name on the hub as it is.
    names = [Path(name).name or name if Path(name).is_dir() else name for name in (student, teacher)]
    shown = []
    if statistics.num_chunks:
        shown = [tables.sides_table(statistics), tables.longest_table(statistics)]
    return render(
        "align.html",
        kicker="tide align",
        title=" and ".join(names),
        tiles={
            "chunks": f"{statistics.num_chunks:,}",
            "of the answers' bytes in a chunk": tables.figure(statistics.coverage, ".2%"),
            "chunks per student token": tables.figure(statistics.student.chunks_per_token, ".3f"),
            "chunks per teacher token": tables.figure(statistics.teacher.chunks_per_token, ".3f"),
        },
        given=given,
        rows=[(heading, list(row.columns())) for heading, row in rows],
        not_aligned=tables.NOT_ALIGNED,
        statistics_heading="Statistics" if data is None else "The data set",
        summary=tables.summary(statistics, data),
        rejected=tables.rejected_texts(statistics),
        tables=shown[:1] if statistics.rows == 1 else shown,
        images=images,
    )

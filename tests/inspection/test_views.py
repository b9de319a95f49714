"""The output: the terminal with and without colours, the page, the figure."""

from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from tests.browser import open_page
from tests.colours import contrast, distance
from tests.inspection.samples import aligned, fixed_aligner
from tests.pages import Page
from tests.tiny import ROWS, make_tokenizer
from tide.data import Rejected, TextRow
from tide.inspection import Aligner, ChunkStatistics, DataSet, alignment_page, print_row, print_statistics
from tide.inspection.histogram import chunk_figure, chunk_images
from tide.inspection.tables import NOT_ALIGNED, longest_table, sides_table
from tide.inspection.terminal import CHUNK_STYLES
from tide.preparation import NO_CHUNK


@pytest.fixture(scope="module")
def aligner():
    return Aligner(make_tokenizer(300), make_tokenizer(340, words=False))


def printed(row, width=100, **options):
    console = Console(file=io.StringIO(), width=width, **options)
    print_row(console, row)
    return console.file.getvalue()


def test_without_colours_chunks_stand_in_brackets():
    row = aligned(fixed_aligner(), TextRow("un", "unhappy!\nun"))
    *lines, legend, note = printed(row).splitlines()
    assert "[a│b] a chunk" in legend and note == NOT_ALIGNED
    assert lines == [
        "student un [un│happy] [!] [↵]",
        "teacher un [unh│appy] [!] [↵]",
        "",
        "student [un]",
        "teacher [un]",
        "",
    ]


def test_with_colours_a_chunk_is_as_wide_on_both_sides():
    row = aligned(fixed_aligner(), TextRow("", "unhappyun!"))
    console = Console(
        file=io.StringIO(), width=100, force_terminal=True, color_system="truecolor", record=True
    )
    print_row(console, row)
    html = console.export_html(inline_styles=True)
    for style in CHUNK_STYLES[:2]:
        assert html.count(f"background-color: {style.bgcolor.triplet.hex}") >= 2
    student, teacher = console.file.getvalue().splitlines()[:2]
    assert "un│happy" in student and "unh│appy" in teacher
    assert "[" not in Console(file=io.StringIO()).render_str(student).plain.replace("\x1b[", "")
    assert NOT_ALIGNED in " ".join(console.file.getvalue().split())


def test_chunk_colours_can_be_told_apart():
    tints = [style.bgcolor.triplet.hex for style in CHUNK_STYLES]
    for number, tint in enumerate(tints):
        assert contrast(tint, CHUNK_STYLES[0].color.triplet.hex) >= 7
        after = tints[(number + 1) % len(tints)]
        assert distance(tint, after) >= 20


@pytest.mark.parametrize("width", [30, 40, 80, 100])
@pytest.mark.parametrize(
    "text", ["x" * 200, "中文" * 30 + "\n" + " " * 90, ROWS[1].completion, "[bold]x[/bold] :smile:"]
)
def test_lines_fit_the_terminal_and_hold_all(aligner, width, text):
    row = aligned(aligner, TextRow("# in\n", text))
    *lines, _ = printed(row, width).split("\n\n")
    assert all(cell_len(line) <= width for pair in lines for line in pair.splitlines())
    for side, tokens in enumerate((row.student, row.teacher)):
        shown = "".join(pair.splitlines()[side].split(maxsplit=1)[1] for pair in lines)
        marks = str.maketrans("", "", " │")
        bare = "".join(token.text for token in tokens).translate(marks)
        assert shown.translate(marks).replace("[", "").replace("]", "") == bare.replace("[", "").replace(
            "]", ""
        )


def test_tokens_in_the_loss_and_in_no_chunk_are_marked():
    from tests.chat import make_chat_tokenizer, make_other_chat_tokenizer
    from tide.data import Conversation, Message

    row = aligned(
        Aligner(make_chat_tokenizer(), make_other_chat_tokenizer()),
        Conversation((Message("user", "a"), Message("assistant", "x"))),
    )
    text = printed(row)
    assert "[x]" in text and "(<|end_turn|>)" in text and "(<|stop|>)" in text
    assert "<|turn|>" in text and "(<|turn|>)" not in text


def test_statistics_in_a_terminal(aligner):
    console = Console(file=io.StringIO(), width=100)
    print_statistics(console, ChunkStatistics.of([*aligner(ROWS), Rejected("a [reason]", "")]))
    text = console.file.getvalue()
    assert (
        text.startswith("Rows aligned: 8 of 9; answers: 8; chunks: ") and "Rejected: a [reason]: 1." in text
    )
    of_data = Console(file=io.StringIO(), width=100)
    print_statistics(of_data, ChunkStatistics.of(aligner(ROWS)), DataSet("[rows].jsonl", 84113))
    assert of_data.file.getvalue().startswith("8 of the 84,113 rows of [rows].jsonl.\nRows aligned: 8 of 8; ")
    assert "longest chunks" in text and max(map(len, text.splitlines())) <= 100
    short = Console(file=io.StringIO(), width=100)
    print_statistics(short, ChunkStatistics.of(aligner(ROWS)), longest=False)
    assert "student tokens" in short.file.getvalue() and "longest" not in short.file.getvalue()


@pytest.mark.parametrize("width", [48, 60, 80, 100])
def test_no_figure_is_cut_in_a_narrow_terminal(aligner, width):
    statistics = ChunkStatistics.of([*aligner(ROWS)] * 50)
    console = Console(file=io.StringIO(), width=width)
    print_statistics(console, statistics)
    text = console.file.getvalue()
    printed_lines = [line.split() for line in text.splitlines()]
    sides = sides_table(statistics)
    if width == 100:
        assert all([*name.split(), *figures] in printed_lines for name, *figures in sides.lines)
    else:
        expected = [[*name.split(), *figures] for name, *figures in sides.transposed().lines]
        start = printed_lines.index(expected[0])
        assert printed_lines[start - 2 : start] == [
            ["student", "teacher"],
            ["per", "chunk:", "tokens", "tokens", "bytes"],
        ]
        assert printed_lines[start : start + len(expected)] == expected
        assert max(map(cell_len, text.splitlines()[start - 2 : start + len(expected)])) <= width
    lines = [line.split()[:3] for line in text.splitlines()[-len(statistics.longest) :]]
    assert lines == [figures for _, *figures in longest_table(statistics).lines]


def test_the_page_shows_every_token_under_its_chunk(aligner):
    row = aligned(aligner, TextRow("<b>", "if a < b & c:\n    pass\n"))
    statistics = ChunkStatistics.of([row, row])
    text = alignment_page(
        [("<The row>", row)], statistics, student="a/student", teacher="b", images=(b"light", b"dark")
    )
    page = Page(text)
    assert [shown for shown in page.texts["bdi"] if shown] == [
        token.text for column in row.columns() for token in (*column.student, *column.teacher)
    ]
    assert page.texts["h2"] == ["Tokenizers and data", "<The row>", "Statistics"] and page.texts["h1"] == [
        "a/student and b"
    ]
    titles = [value for tag, name, value in page.attributes if tag == "bdi" and name == "title"]
    assert titles[-1].endswith(f"chunk {statistics.num_chunks // 2 - 1}")
    assert page.tags.count("img") == 1 and page.tags.count("br") >= 1
    assert f"{statistics.student.chunks_per_token:.3f}" in page.texts["dd"]
    assert NOT_ALIGNED in page.texts["p"][1]


def test_the_page_in_a_browser(aligner, tmp_path):
    hostile = "<script>throw 1</script></bdi><img src=x onerror=alert(1)>"
    row = aligned(aligner, TextRow("", hostile))
    path = "/data/" + "/".join(["one_long_folder_of_names", "another_folder_of_rows"] * 3)
    page = alignment_page(
        [(f"{path}:1", row), (hostile, row)],
        ChunkStatistics.of([row, row]),
        student=path,
        teacher=hostile,
        data=DataSet(path, 2),
        images=chunk_images(ChunkStatistics.of([row])),
    )
    opened = open_page(page, tmp_path)
    assert opened.console == []
    assert opened.scroll_width == opened.width <= 500
    assert opened.images == [True]
    assert hostile in opened.text and opened.text.count("Underlined:") == 1
    parts = [line.strip() for line in opened.lines if line.strip() and line.strip() in path]
    assert len(parts) >= 8 and {part[-1] for part in parts} <= {"/", "_", "s"}
    assert all(part.endswith(("/", "_", "rows")) for part in parts), "no word is broken"


def test_the_page_names_tokenizers_and_data(aligner):
    statistics = ChunkStatistics.of(aligner(ROWS))
    data = DataSet("<chats>.jsonl, split dev", 84113)
    text = alignment_page([], statistics, student="a/b", teacher="c/d", merging="words", data=data)
    page = Page(text)
    shown = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert list(shown.items())[4:] == [
        ("student", "a/b"),
        ("teacher", "c/d"),
        ("chunk merging", "words"),
        ("data", "<chats>.jsonl, split dev"),
        ("statistics of", "8 of the 84,113 rows"),
    ]
    assert "8 of the 84,113 rows of <chats>.jsonl, split dev." in page.texts["p"]
    without = Page(alignment_page([], statistics, student="a/b", teacher="c/d"))
    assert without.texts["dd"][4:] == ["a/b", "c/d", "none"]


def test_a_page_without_chunks_or_figures():
    text = alignment_page(
        [], ChunkStatistics.of([Rejected("odd", "")]), student="a", teacher="b", data=DataSet("x", 1)
    )
    page = Page(text)
    assert "img" not in page.tags and "Rejected:" in page.texts["p"]
    assert page.texts["dd"][:4] == ["0", "-", "-", "-"]


def test_the_page_lists_reasons_of_rejection(aligner):
    rows = [Rejected("odd", ""), *aligner(ROWS[:1]), Rejected("<b>", ""), Rejected("odd", "")]
    page = Page(alignment_page([], ChunkStatistics.of(rows), student="a", teacher="b"))
    assert page.texts["li"] == ["odd: 2", "<b>: 1"] and page.tags.count("ul") == 1


def test_the_figure_holds_every_chunk(aligner):
    statistics = ChunkStatistics.of(aligner(ROWS))
    left, right = chunk_figure(statistics).axes
    heights = [bar.get_height() for bar in left.patches]
    assert sum(heights) == pytest.approx(100)
    assert heights[0] == pytest.approx(100 * statistics.chunk_bytes[1] / statistics.num_chunks)
    assert sum(bar.get_height() for bar in right.patches) == pytest.approx(200)
    labels = [text.get_text() for text in right.get_legend().get_texts()]
    means = [1 / side.chunks_per_token for side in (statistics.student, statistics.teacher)]
    assert labels == [
        f"{name}, mean {mean:.2f}" for name, mean in zip(("student", "teacher"), means, strict=True)
    ]
    light, dark = chunk_images(statistics)
    assert light[:4] == dark[:4] == b"\x89PNG" and light != dark


def test_long_chunks_share_the_last_bar():
    statistics = ChunkStatistics.of(
        [aligned(fixed_aligner(), TextRow("", "un" * 9 + "happy!" * 3 + "a" * 300))]
    )
    statistics.chunk_bytes.update({60: 3})
    left, _ = chunk_figure(statistics).axes
    assert left.get_xticklabels()[-1].get_text().endswith("+")
    assert sum(bar.get_height() for bar in left.patches) == pytest.approx(100)


def test_no_figure_without_chunks():
    with pytest.raises(ValueError, match="chunk_figure: 1 rows have no chunk"):
        chunk_figure(ChunkStatistics.of([Rejected("odd", "")]))


def test_columns_without_a_chunk_have_no_tint(aligner):
    row = aligned(aligner, TextRow("a b", "c"))
    page = alignment_page([("x", row)], ChunkStatistics.of([row]), student="a", teacher="b")
    alone = sum(column.chunk == NO_CHUNK for column in row.columns())
    assert page.count('class="column context"') == alone > 0

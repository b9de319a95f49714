"""Arrow and Parquet of every type give their rows; damaged files give one line, whatever pyarrow does.

Mutants that these tests kill: a reader in this process; offsets that are not checked; a check without an end.
"""

from __future__ import annotations

import random
import resource
import struct
import tempfile

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tide.data import arrow_rows, open_source

TEXTS = ["one row", "another", "another", "é", None]
CHAT = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "This."}]
VIEW = pa.string_view()


def messages(text: pa.DataType, of=pa.list_) -> pa.Array:
    return pa.array([CHAT, None, CHAT], of(pa.struct([("role", text), ("content", text)])))


COLUMNS = {
    "large": pa.array(TEXTS, pa.large_string()),
    "view": pa.array(TEXTS, VIEW),
    "dictionary": pa.array(TEXTS).dictionary_encode(),
    "run ends": pc.run_end_encode(pa.array(TEXTS)),
    "dictionary of views": pa.DictionaryArray.from_arrays([1, 0, None], pa.array(["a", "b"], VIEW)),
    "messages": messages(pa.string()),
    "large messages": messages(pa.large_string(), pa.large_list),
    "views in messages": messages(VIEW),
    "dictionaries in messages": messages(pa.dictionary(pa.int8(), pa.string())),
    "views of lists": messages(pa.string(), pa.list_view),
    "lists of one length": pa.array([CHAT, CHAT], pa.list_(messages(pa.string()).type.value_type, 2)),
    "nothing": pa.nulls(3),
}


def write_arrow(path, table):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_every_type_gives_its_rows(tmp_path, suffix):
    (tmp_path / "rows").mkdir()
    expected = []
    for number, (name, column) in enumerate(COLUMNS.items()):
        table, path = pa.table({"text": column, "id": column}), tmp_path / "rows" / f"{number:02}.{suffix}"
        try:
            write_arrow(path, table) if suffix == "arrow" else pq.write_table(table, path)
        except pa.ArrowNotImplementedError:  # of Parquet's writer
            assert suffix == "parquet" and ("view" in name or name == "run ends")
            continue
        expected += [{"text": text} for text in column.to_pylist()]
    source = open_source(tmp_path / "rows")
    assert source.rows(range(len(source))) == expected
    assert source.rows([len(source) - 1, 1, 0]) == [expected[-1], expected[1], expected[0]]


def unreadable_in_the_middle():
    """Columns of three values; Python cannot hold the second."""
    raw = pa.array([b"a", b"\xff\xfe", b"c"])
    text, view = raw.view(pa.string()), raw.cast(pa.binary_view()).view(VIEW)
    ends = pc.run_end_encode(raw).run_ends
    kind = pa.run_end_encoded(pa.int32(), pa.string())
    turns = pa.StructArray.from_arrays([text.dictionary_encode(), view], ["role", "content"])
    times = pa.array([0, 2**61, 1], pa.timestamp("ms"))
    yield from (text, text.cast(pa.large_string()), view, times)
    yield from (pa.DictionaryArray.from_arrays([0, 1, 2], values) for values in (text, view, times))
    yield pa.Array.from_buffers(kind, 3, [None], children=[ends, text])
    yield pa.ListArray.from_arrays([0, 1, 2, 3], turns)
    yield pa.ListViewArray.from_arrays([0, 1, 2], [1, 1, 1], turns)
    turns = pa.StructArray.from_arrays([text.dictionary_encode(), text], ["role", "content"])
    yield pa.FixedSizeListArray.from_arrays(turns, 1)


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_values_that_python_cannot_hold_reject_their_row(tmp_path, suffix):
    reasons = []
    for number, column in enumerate(unreadable_in_the_middle()):
        path = tmp_path / f"{number:02}.{suffix}"
        try:
            table = pa.table({"text": column})
            write_arrow(path, table) if suffix == "arrow" else pq.write_table(table, path)
            reasons.append("wrong type" if "timestamp" in str(column.type) else "invalid UTF-8")
        except pa.ArrowNotImplementedError:
            pass
    source = open_source(tmp_path)
    rows = source.rows(range(len(source)))
    assert [row.reason for row in rows[1::3]] == reasons and len(rows) == 3 * len(reasons) >= 21


def test_columns_of_one_name_are_refused(tmp_path):
    twice = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], ["role", "role"])
    for name, column, found in (
        ("outside", pa.table([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), "2 columns 'text'"),
        ("inside", pa.table({"messages": twice}), "fields of one name in struct<role"),
    ):
        write_arrow(tmp_path / f"{name}.arrow", column)
        with pytest.raises(ValueError, match=rf"{name}\.arrow' has {found}.* Rename or drop all but one\."):
            open_source(tmp_path / f"{name}.arrow")
    beside = pa.table([pa.array(["a"]), pa.array([1]), pa.array([2])], ["text", "id", "id"])
    write_arrow(tmp_path / "beside.arrow", beside)
    assert open_source(tmp_path / "beside.arrow").rows([0]) == [{"text": "a"}]


def one_line(error: pytest.ExceptionInfo[ValueError], path) -> bool:
    text = str(error.value)
    return "\n" not in text and repr(str(path)) in text and text.endswith(" Download or write it again.")


@pytest.mark.parametrize("fault", ["import os; os.abort()", "while True: pass"])
def test_a_reader_that_crashes_or_never_ends_is_one_line(tmp_path, monkeypatch, fault):
    (tmp_path / "reader.py").write_text(fault)
    write_arrow(tmp_path / "a.arrow", pa.table({"text": TEXTS}))
    monkeypatch.setattr(arrow_rows.arrow_check, "__file__", str(tmp_path / "reader.py"))
    monkeypatch.setattr(arrow_rows, "SECONDS_TO_START", 5)
    with pytest.raises(ValueError, match=r"exit status -6|stopped after 5 seconds") as error:
        open_source(tmp_path / "a.arrow")
    assert one_line(error, tmp_path / "a.arrow")


def test_a_copy_that_cannot_be_written_is_no_damaged_file(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": [f"{'a' * 999}{at}" for at in range(3000)]}), tmp_path / "a.parquet")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OSError, match=rf"^cannot write '{tmp_path}/tide-\S+': File too large, .* free"):
            open_source(tmp_path / "a.parquet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(open_source(tmp_path / "a.parquet")) == 3000


def test_offsets_outside_the_text_are_one_line(tmp_path):
    write_arrow(tmp_path / "good.arrow", pa.table({"text": TEXTS}))
    write_arrow(tmp_path / "x.arrow", pa.table({"text": pa.array(["abc", "def"])}))
    whole = (tmp_path / "x.arrow").read_bytes()
    bad = whole.replace(struct.pack("<3i", 0, 3, 6), struct.pack("<3i", 0, 3, 1 << 30))
    assert bad != whole
    (tmp_path / "x.arrow").write_bytes(bad)
    with pytest.raises(ValueError) as error:
        open_source(tmp_path)
    assert one_line(error, tmp_path / "x.arrow")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_flipped_bytes_give_rows_or_one_line(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(arrow_rows, "SECONDS_TO_START", 20)
    table = pa.table({"text": TEXTS * 3, "messages": pa.array([CHAT] * 15)})
    path = tmp_path / f"a.{suffix}"
    write_arrow(path, table) if suffix == "arrow" else pq.write_table(table, path)
    whole, draw = path.read_bytes(), random.Random(0)
    outcomes = [0, 0]
    for place in range(0, len(whole), len(whole) // 15):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ draw.randrange(1, 256)]) + whole[place + 1 :])
        try:
            rows = [row for _, row in open_source(path)]
            outcomes[0] += 1
            assert rows
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            outcomes[1] += 1
    assert min(outcomes)

"""Files, directories, saved data sets and the hub: the same rows from each, in order and by number."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tide.data.conversation import Rejected, RejectedRow, parse_row
from tide.data.sources import open_source

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"{at}?\n"},
            {"role": "assistant", "content": f"é{at} \u2028👩‍🚀"},
        ]
    }
    for at in range(7)
]


def write_jsonl(path: Path, rows=ROWS) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8", newline="")
    return path


def write_array(path: Path, rows=ROWS) -> Path:
    text = "\ufeff \n" + json.dumps(rows, indent=1)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def table(rows=ROWS) -> pa.Table:
    return pa.Table.from_pylist([{"id": at, **row} for at, row in enumerate(rows)])


def write_parquet(path: Path) -> Path:
    pq.write_table(table(), path, row_group_size=3)
    return path


def write_arrow(path: Path, *, new=pa.ipc.new_file) -> Path:
    with pa.OSFile(str(path), "wb") as sink, new(sink, table().schema) as writer:
        writer.write_table(table(), max_chunksize=2)
    return path


KINDS = {
    "rows.jsonl": write_jsonl,
    "rows.json": write_jsonl,
    "ROWS.JSONL": write_jsonl,
    "rows.jsonl.gz": write_jsonl,
    "array.json": write_array,
    "array.json.gz": write_array,
    "rows.parquet": write_parquet,
    "file.arrow": write_arrow,
    "stream.arrow": lambda path: write_arrow(path, new=pa.ipc.new_stream),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_holds_the_same_rows(tmp_path, name):
    source = open_source(KINDS[name](tmp_path / name))
    assert len(source) == len(ROWS) and source.files == (tmp_path / name,)
    assert list(source) == list(enumerate(ROWS))
    assert source.rows([6, 0, 3, 3]) == [ROWS[6], ROWS[0], ROWS[3], ROWS[3]]
    assert source.rows(np.array([], dtype=np.int64)) == []
    assert [parse_row(row).messages[1].content for row in source.rows(range(2))] == [
        "é0 \u2028👩‍🚀",
        "é1 \u2028👩‍🚀",
    ]
    assert source.fingerprint() == open_source(write_jsonl(tmp_path / "other.jsonl")).fingerprint()
    for wrong in (7, -1):
        with pytest.raises(IndexError, match=r"no row .* among 7"):
            source.rows([0, wrong])


def test_another_process_reads_the_same(tmp_path):
    sources = [open_source(write(tmp_path / name)) for name, write in KINDS.items()]
    sent = pickle.dumps(sources)
    assert "é".encode() not in sent and b"\\u00e9" not in sent  # not the text
    code = "import pickle, sys; print([s.rows([5, 1]) for s in pickle.load(sys.stdin.buffer)])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        input=sent,
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONUTF8": "1"},
    )
    assert ran.stdout.decode().strip() == repr([[ROWS[5], ROWS[1]]] * len(KINDS))
    # The other process took nothing away.
    assert all(source.rows([2]) == [ROWS[2]] for source in sources)


def test_temporary_files_go_with_the_source(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    sources = [
        open_source(write_parquet(tmp_path / "a.parquet")),
        open_source(write_array(tmp_path / "a.json.gz")),
    ]
    copy = pickle.loads(pickle.dumps(sources[1]))
    assert len(list(scratch.iterdir())) == 2
    del copy
    assert sources[1].rows([1]) == [ROWS[1]] and len(list(scratch.iterdir())) == 2
    sources.clear()
    assert list(scratch.iterdir()) == []


def test_lines_that_are_no_rows_are_rejected_with_their_place(tmp_path):
    lines = [
        b'\xef\xbb\xbf{"text": "a"}\r',
        b"",
        b" \t\r",
        b'{"text": "\xe9"}',
        b'{"text": ',
        b'["a"]',
        b"null",
        b"[" * 100_000,
        b'{"n": ' + b"1" * 5000 + b"}",
        b'  {"text": "b"}',
        b'{"text": "c"} {"text": "d"}',
    ]
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(lines))
    source = open_source(tmp_path / "rows.jsonl")
    rows = [row for _, row in source]
    assert rows[0] == {"text": "a"} and rows[7] == {"text": "b"} and len(rows) == 9
    bad = [(row.reason, row.detail) for row in rows if isinstance(row, Rejected)]
    where = f"{tmp_path}/rows.jsonl"
    assert bad[0] == ("invalid UTF-8", f"{where}:4: invalid continuation byte at byte 11")
    assert bad[1] == ("not JSON", f"{where}:5: Expecting value at column 10")
    assert bad[2] == ("not an object", f"{where}:6: a JSON list")
    assert bad[3] == ("not an object", f"{where}:7: a JSON NoneType")
    assert [reason for reason, _ in bad[4:]] == ["not JSON"] * 3
    assert bad[5][1].startswith(f"{where}:9: ")
    assert bad[6][1] == f"{where}:11: Extra data at column 15"
    assert [source.where(index) for index in (0, 1, 7, 8)] == [f"{where}:{line}" for line in (1, 4, 10, 11)]


def test_half_a_surrogate_pair_is_left_to_the_row(tmp_path):
    for name, text in (("a.jsonl", '{"text": "\\ud83d"}\n'), ("a.json", '[{"text": "\\ud83d"}]')):
        (tmp_path / name).write_text(text)
        source = open_source(tmp_path / name)
        (row,) = source.rows([0])
        with pytest.raises(RejectedRow, match="half a surrogate pair"):
            parse_row(row)
        source.fingerprint()


@given(
    lines=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6).filter(lambda text: "\n" not in text),
        max_size=8,
    ),
    end=st.sampled_from(["", "\n"]),
)
def test_every_line_is_found(tmp_path_factory, lines, end):
    file = tmp_path_factory.mktemp("lines") / "rows.jsonl"
    written = [json.dumps({"text": line}, ensure_ascii=False) if line.strip() else line for line in lines]
    written.append('{"text": "last"}')
    file.write_text("\n".join(written) + end, encoding="utf-8", newline="")
    expected = [(at, line) for at, line in enumerate([*lines, "last"], 1) if line.strip()]
    source = open_source(file)
    rows = [(source.where(index), row) for index, row in source]
    ascii_blank = [(at, row) for at, row in rows if isinstance(row, Rejected)]
    # White space other than ASCII's is no blank line, and no JSON either.
    assert all(lines[int(at.rpartition(":")[2]) - 1].strip() == "" for at, _ in ascii_blank)
    rows = [pair for pair in rows if pair not in ascii_blank]
    assert rows == [(f"{file}:{at}", {"text": line}) for at, line in expected]


def test_text_that_is_no_utf8_in_a_table(tmp_path):
    raw = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary())
    text = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2])
    pq.write_table(pa.table({"text": text}), tmp_path / "rows.parquet")
    source = open_source(tmp_path / "rows.parquet")
    good, bad, fine = source.rows([0, 1, 2])
    assert (good, fine) == ({"text": "good"}, {"text": "fine"})
    assert bad.reason == "invalid UTF-8" and bad.detail.startswith(f"{tmp_path}/rows.parquet:row 1: ")


def test_dictionaries_and_large_text_in_parquet(tmp_path):
    texts = [f"text {at % 5}" for at in range(4000)]
    columns = {
        "prompt": pa.array(texts).dictionary_encode(),
        "completion": pa.array(texts, pa.large_string()),
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=700)
    source = open_source(tmp_path / "rows.parquet")
    assert source.rows([3999, 0]) == [{"prompt": texts[at], "completion": texts[at]} for at in (3999, 0)]


def test_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.select([4, 2, 0]).save_to_disk(tmp_path / "one")
    splits = {"train": dataset, "test": dataset.select([1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "dict", num_shards={"train": 2, "test": 1})
    assert datasets.load_from_disk(tmp_path / "one").to_list() == [ROWS[4], ROWS[2], ROWS[0]]
    assert [row for _, row in open_source(tmp_path / "one")] == [ROWS[4], ROWS[2], ROWS[0]]
    assert [row for _, row in open_source(tmp_path / "dict")] == ROWS
    assert len(open_source(tmp_path / "dict").files) == 2
    assert open_source(tmp_path / "dict", split="test").rows([0]) == [ROWS[1]]
    with pytest.raises(ValueError, match=r"has no split 'dev', only \['train', 'test'\]\."):
        open_source(tmp_path / "dict", split="dev")


def test_directories_and_globs(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", ROWS[2:4])
    write_jsonl(tmp_path / "a" / "c.jsonl.gz", ROWS[:2])
    write_jsonl(tmp_path / ".cache" / "x.jsonl", ROWS)
    (tmp_path / "README.md").write_text("about")
    source = open_source(tmp_path)
    assert [row for _, row in source] == ROWS[:4]
    assert source.rows([3, 0, 2]) == [ROWS[3], ROWS[0], ROWS[2]]
    assert [source.where(index) for index in (1, 2)] == [
        f"{tmp_path}/a/c.jsonl.gz:2",
        f"{tmp_path}/b.jsonl:1",
    ]
    assert [row for _, row in open_source(f"{tmp_path}/*.jsonl")] == ROWS[2:4]
    assert [row for _, row in open_source(f"{tmp_path}/**/*.jsonl*")] == ROWS[:4]


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    assert len(open_source(write_jsonl(tmp_path / "rows[1].jsonl"))) == len(ROWS)


@pytest.mark.parametrize(
    "names",
    [
        (
            "data/train-00000-of-00002.jsonl",
            "data/train-00001-of-00002.jsonl",
            "data/test-00000-of-00001.jsonl",
        ),
        ("train.jsonl", "train_2.jsonl", "test.jsonl"),
        ("train/a.jsonl", "train/b.jsonl", "test/a.jsonl"),
    ],
)
def test_a_directory_of_splits(tmp_path, names):
    for name, rows in zip(names, (ROWS[:2], ROWS[2:5], ROWS[5:]), strict=True):
        write_jsonl(tmp_path / name, rows)
    assert [row for _, row in open_source(tmp_path)] == ROWS[:5]
    assert [row for _, row in open_source(tmp_path, split="test")] == ROWS[5:]
    with pytest.raises(ValueError, match=r"has no split 'train_sft', only \['test', 'train'\]\."):
        open_source(tmp_path, split="train_sft")


def test_a_file_of_no_split_beside_splits_is_an_error(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", ROWS[:2])
    for name in ("README.md", "dataset_infos.json", "data/dataset_info.json", "_old/more.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "no row"}\n')
    assert [row for _, row in open_source(tmp_path)] == ROWS[:2]
    write_jsonl(tmp_path / "data" / "extra.jsonl", ROWS[2:])
    for split in ("train", "test"):
        with pytest.raises(ValueError) as caught:
            open_source(tmp_path, split=split)
        assert str(caught.value) == (
            f"open_source: {str(tmp_path)!r} holds files of the splits ['train'], and others whose names say "
            "no split: ['data/extra.jsonl']. Move these elsewhere or name them after a split, or give one "
            "file or a glob in place of the directory."
        )
    for number in range(6):
        write_jsonl(tmp_path / f"{number}.jsonl")
    with pytest.raises(ValueError, match=r"'3\.jsonl', '4\.jsonl'\] and 2 more\. Move"):
        open_source(tmp_path)
    assert len(open_source(f"{tmp_path}/**/[et]*.jsonl")) == len(ROWS)


def test_splits_of_other_names(tmp_path):
    for name, rows in (("train_sft", ROWS[:2]), ("train_gen", ROWS[2:])):
        write_jsonl(tmp_path / f"{name}-00000-of-00001.jsonl", rows)
    assert [row for _, row in open_source(tmp_path, split="train_sft")] == ROWS[:2]
    with pytest.raises(ValueError, match=r"has no split 'train', only \['train_gen', 'train_sft'\]\."):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.jsonl", r"open_source: no file or directory at '.*missing\.jsonl'\. Correct the path\."),
        ("no/such/folder", r"no file or directory at .*no/such/folder"),
        ("*.ndjson", r"no file of a known kind matches .* Known are \.jsonl, "),
        ("empty", r"'.*empty' holds no file of a known kind\. Known are"),
        ("empty.jsonl", r"empty\.jsonl' holds no rows\. Leave it out"),
        ("blank.jsonl.gz", r"blank\.jsonl\.gz' holds no rows"),
        ("empty.json", r"empty\.json' holds no rows"),
        ("rows.csv", r"rows\.csv' is of no known kind\. Known are"),
        ("cut.jsonl.gz", r"cut\.jsonl\.gz' cannot be read \(.*\)\. Is it whole\?"),
        ("text.jsonl.gz", r"text\.jsonl\.gz' cannot be read \(Not a gzipped file"),
        ("cut.json", r"cut\.json' cannot be read \(Expecting"),
        ("cut.parquet", r"cut\.parquet' cannot be read"),
        ("cut.arrow", r"cut\.arrow' cannot be read"),
        ("cut_file.arrow", r"cut_file\.arrow' cannot be read"),
        (
            "other.parquet",
            r"other\.parquet' has columns \['id', 'score'\]\. Expected one or more of messages, ",
        ),
        ("other.arrow", r"other\.arrow' has columns \['id', 'score'\]\."),
    ],
)
def test_a_source_that_is_not_there_or_damaged_is_an_error(tmp_path, path, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "blank.jsonl.gz").write_bytes(gzip.compress(b" \n\n"))
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "rows.csv").write_text("a,b\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 50)[:-12])
    (tmp_path / "text.jsonl.gz").write_text('{"text": "a"}\n')
    (tmp_path / "cut.json").write_text('[{"text": "a"},')
    (tmp_path / "cut.parquet").write_bytes(write_parquet(tmp_path / "w.parquet").read_bytes()[:-20])
    stream = write_arrow(tmp_path / "w.arrow", new=pa.ipc.new_stream)
    (tmp_path / "cut.arrow").write_bytes(stream.read_bytes()[:300])
    (tmp_path / "cut_file.arrow").write_bytes(write_arrow(tmp_path / "v.arrow").read_bytes()[:-30])
    other = pa.table({"id": [1], "score": [0.5]})
    pq.write_table(other, tmp_path / "other.parquet")
    with (
        pa.OSFile(str(tmp_path / "other.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, other.schema) as writer,
    ):
        writer.write_table(other)
    with pytest.raises(ValueError, match=message) as caught:
        open_source(tmp_path / path)
    assert not isinstance(caught.value, RejectedRow)


class TestTheHub:
    """Without the network: the `datasets` package is asked, or is not there."""

    def test_its_data_set_is_read_and_sent(self, monkeypatch):
        datasets = pytest.importorskip("datasets")
        dataset = datasets.Dataset.from_list([{"id": at, **row} for at, row in enumerate(ROWS)])
        asked = []

        def load_dataset(path, *, name, split):
            asked.append((path, name, split))
            return dataset.select([3, 1, 2])

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        source = open_source("org/chat", subset="python", split="train_sft")
        assert asked == [("org/chat", "python", "train_sft")]
        assert [row for _, row in source] == [ROWS[3], ROWS[1], ROWS[2]]
        assert source.files == () and source.where(2) == "org/chat:row 2"
        assert pickle.loads(pickle.dumps(source)).rows([1]) == [ROWS[1]]
        open_source("gsm8k")
        assert asked[1] == ("gsm8k", None, "train")

    def test_a_data_set_that_it_does_not_have(self, monkeypatch):
        datasets = pytest.importorskip("datasets")

        def load_dataset(path, **_):
            raise datasets.exceptions.DatasetNotFoundError(f"{path} is not on the hub")

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        with pytest.raises(
            ValueError, match=r"no file or directory at 'org/chat', and the hub .*not on the hub"
        ):
            open_source("org/chat")

    def test_without_its_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(ValueError, match=r'pip install "tide-distill\[hub\]"'):
            open_source("org/chat")


def test_local_files_need_no_datasets_package(tmp_path):
    file = write_parquet(tmp_path / "a.parquet")
    code = (
        "import sys; sys.modules['datasets'] = None; from tide.data.sources import open_source; "
        f"print(len(open_source({str(file)!r})))"
    )
    root = str(Path(__file__).parents[2])
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=root, text=True)
    assert ran.stdout == "7\n"

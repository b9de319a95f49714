"""Shards give back the examples that were written; broken ones are errors."""

from __future__ import annotations

import pickle
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tide.batch import Example, TokenSequence
from tide.data import LengthBuckets, ShardedExamples, write_shard


def sequence(length: int, *, chunks: bool = False) -> TokenSequence:
    """Distinct values in every field."""
    place = torch.arange(length)
    return TokenSequence(place * 7, place % 3 == 0, place // 2 if chunks else torch.full((length,), -1))


def equal(one: Example, other: Example) -> bool:
    """Equal in value and dtype, on both sides."""
    for side in ("student", "teacher"):
        pair = getattr(one, side), getattr(other, side)
        if (pair[0] is None) != (pair[1] is None):
            return False
        for name in ("token_ids", "loss_mask", "chunks"):
            if pair[0] is not None and not torch.equal(getattr(pair[0], name), getattr(pair[1], name)):
                return False
    return one.num_chunks == other.num_chunks


PAIR = Example(sequence(4, chunks=True), sequence(6, chunks=True), 2)
ALONE = Example(sequence(3))
UNCHUNKED = Example(sequence(5), sequence(2))

lengths = st.integers(0, 6)
examples = st.builds(
    lambda length, other, chunks: Example(
        sequence(length, chunks=chunks), None if other is None else sequence(other, chunks=chunks), 3 * chunks
    ),
    lengths,
    st.none() | lengths,
    st.booleans(),
)


@settings(deadline=None, max_examples=50)
@given(shards=st.lists(st.lists(examples, max_size=4), max_size=4))
def test_examples_come_back_in_order(tmp_path_factory, shards):
    folder = tmp_path_factory.mktemp("shards")
    paths = [folder / f"{number}.arrow" for number in range(len(shards))]
    for path, of_shard in zip(paths, shards, strict=True):
        write_shard(path, of_shard)
    expected = [example for of_shard in shards for example in of_shard]
    read = ShardedExamples(paths)
    assert len(read) == len(expected) and read.sizes == tuple(map(len, shards))
    assert read.lengths.tolist() == [len(example.student.token_ids) for example in expected]
    assert all(equal(*pair) for pair in zip(read, expected, strict=True))


def test_any_example_can_be_asked_for(tmp_path):
    for number, of_shard in enumerate([[PAIR], [], [ALONE, UNCHUNKED]]):
        write_shard(tmp_path / f"{number}.arrow", of_shard)
    read = ShardedExamples([tmp_path / f"{number}.arrow" for number in range(3)])
    assert equal(read[2], UNCHUNKED) and equal(read[-3], PAIR) and equal(read[1], ALONE)
    for outside in (3, -4):
        with pytest.raises(IndexError, match=f"no example {outside} among 3"):
            read[outside]
    copy = pickle.loads(pickle.dumps(read))
    assert len(pickle.dumps(read)) < 1000 and equal(copy[0], PAIR)


def test_a_teacher_that_reads_the_students_tokens_is_stored_once(tmp_path):
    both = sequence(50)
    write_shard(tmp_path / "shared.arrow", [Example(both, both)])
    write_shard(tmp_path / "alone.arrow", [Example(both)])
    assert (tmp_path / "shared.arrow").read_bytes() == (tmp_path / "alone.arrow").read_bytes()
    assert ShardedExamples([tmp_path / "shared.arrow"])[0].teacher is None
    example = ShardedExamples([tmp_path / "shared.arrow"], shared=True)[0]
    assert example.teacher is example.student


def test_equal_examples_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, [PAIR, UNCHUNKED])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".new"] == []


def test_reading_does_not_lend_the_file_out(tmp_path):
    write_shard(tmp_path / "a", [PAIR])
    read = ShardedExamples([tmp_path / "a"])
    read[0].student.token_ids.fill_(-5)
    assert equal(read[0], PAIR)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_million_rows_take_no_memory_of_their_own(tmp_path):
    """Mutants that this kills: columns joined by a copy; lengths as Python integers."""

    def anonymous() -> int:
        """Bytes of this process that are no file's."""
        (kilobytes,) = re.findall(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
        return int(kilobytes) << 10

    rows, shards = 1000, 1000
    write_shard(tmp_path / "a", [Example(sequence(200, chunks=True), sequence(200, chunks=True), 100)] * rows)
    few = ShardedExamples([tmp_path / "a"] * 2)
    sum(len(few[index].student.token_ids) for index in LengthBuckets(few.lengths, batch_size=8, seed=0))
    before = anonymous()
    many = ShardedExamples([tmp_path / "a"] * shards)
    buckets = LengthBuckets(many.lengths, batch_size=8, seed=0)
    for index, _ in zip(buckets, range(1000), strict=False):
        assert many[index].num_chunks == 100
    # Lengths take 4 bytes a row and the order 8; the shards are 3.6 GB.
    assert len(many) == rows * shards and anonymous() - before < 24 * rows * shards


def test_a_file_that_is_no_shard_is_an_error(tmp_path):
    (tmp_path / "text").write_text("no arrow")
    with pa.OSFile(str(tmp_path / "other"), "wb") as sink:
        table = pa.table({"a": [1]})
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    for name, message in (
        ("missing", r"'.*missing' cannot be read as a shard .*\. Prepare the data again\."),
        ("text", r"'.*text' cannot be read as a shard .*\. Prepare the data again\."),
        (
            "other",
            r"'.*other' has 1 batches of the columns \['a'\], expected one of .*Prepare the data again",
        ),
    ):
        with pytest.raises(ValueError, match=f"ShardedExamples: {message}"):
            ShardedExamples([tmp_path / name])

"""Records of a directory of shards: plans compare, counts add up, other formats are refused."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

import tide
from tests.tiny import END, MASK, make_tokenizer
from tide.batch import Example, TokenSequence
from tide.data import file_hash, write_shard
from tide.preparation.manifest import (
    FORMAT,
    Counts,
    Manifest,
    PartReport,
    Plan,
    Shard,
    SourceCounts,
    read_plan,
    tokenizer_fingerprint,
    versions_here,
    write_record,
)

PLAN = Plan(
    format=FORMAT,
    sides="both",
    sources=[{"path": "a.jsonl", "weight": 1.0, "rows": 3, "sha256": "x"}],
    tokenizers={"student": "s", "teacher": "t"},
    options={"max_length": 64},
    shard_rows=10,
    versions={},
)
SHARD = Shard(file="p.arrow", examples=1, sha256="h")
MADE = Manifest(
    plan=PLAN,
    counts=Counts(rows=2, kept=1, rejected={"no answer": 1}),
    shards=[SHARD],
    sources=[SourceCounts(rows=2, kept=1, rejected=1)],
)


def changed(record, **fields):
    return record.model_copy(update=fields)


def test_counts_add_up():
    one = Counts(rows=5, kept=3, cut=1, student_tokens=30, highest_id=7, rejected={"no answer": 2})
    two = Counts(
        rows=2, chunks=4, without_chunks=12, highest_id=3, rejected={"empty answer": 1, "no answer": 1}
    )
    total = Counts.total([one, two, Counts()])
    assert total == Counts(
        rows=7,
        kept=3,
        cut=1,
        student_tokens=30,
        chunks=4,
        without_chunks=12,
        highest_id=7,
        rejected={"empty answer": 1, "no answer": 3},
    )
    assert list(total.rejected) == ["empty answer", "no answer"]
    assert str(total) == (
        "7 rows, 3 examples (1 cut at max_length, 12 without chunks), 30 student tokens, 0 in the loss, "
        "4 chunks\n  3 rejected: no answer\n  1 rejected: empty answer"
    )
    many = Counts(rejected={"a": 7, "b": 1200, "c": 7})
    assert many.rejected_in_lines == ["  1,200 rejected: b", "      7 rejected: a", "      7 rejected: c"]
    assert str(two).startswith("2 rows, 0 examples (12 without chunks), 0 student tokens")
    assert str(Counts(rows=1, kept=1)) == "1 rows, 1 examples, 0 student tokens, 0 in the loss"


def test_counts_of_sources_add_up():
    one, two = SourceCounts(rows=5, kept=3, rejected=2), SourceCounts(rows=1, kept=1, rejected=0)
    none = SourceCounts(rows=0, kept=0, rejected=0)
    assert SourceCounts.total([[one, two], [two, two], [none, one]]) == [
        SourceCounts(rows=6, kept=4, rejected=2),
        SourceCounts(rows=7, kept=5, rejected=2),
    ]


def test_plans_differ_where_they_differ():
    assert PLAN.differences(changed(PLAN)) == []
    other = changed(
        PLAN, sources=[*PLAN.sources, {"path": "b"}], options={"max_length": 32, "end_fill": "none"}
    )
    assert PLAN.differences(other) == ["options.end_fill", "options.max_length", "sources.1.path"]


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 1.0), (True, 1.0), (None, False)])
def test_equal_numbers_of_other_types_differ_as_template_arguments(one, other):
    plans = [
        changed(PLAN, options={"student_template_arguments": {"enable_thinking": value}})
        for value in (one, other)
    ]
    assert plans[0].differences(plans[1]) == ["options.student_template_arguments.enable_thinking"]


def test_versions_are_recorded_and_not_compared(tmp_path):
    assert versions_here().keys() == {"tide", "tokenizers", "transformers", "numpy", "pyarrow"}
    assert versions_here()["tide"] == tide.__version__ and versions_here()["numpy"]
    plan = changed(PLAN, versions={"tide": "0.0.1"})
    assert plan.differences(PLAN) == [] and plan != PLAN
    write_record(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path) == plan


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    write_record(tmp_path / "manifest.json", MADE)
    assert Manifest.read(tmp_path) == MADE
    assert MADE.fingerprint == Manifest.read(tmp_path).fingerprint
    assert changed(MADE, shards=[changed(SHARD, sha256="other")]).fingerprint != MADE.fingerprint


def test_another_format_is_refused_before_its_fields_are_looked_at(tmp_path):
    for values in ({"plan": {"format": 1, "old": 1}, "old": 1}, {"format": 1, "old": 1}):
        name = "manifest.json" if "plan" in values else "plan.json"
        (tmp_path / name).write_text(json.dumps(values))
        with pytest.raises(ValueError, match=rf"{name}' has format 1, expected {FORMAT}\. Prepare"):
            Manifest.read(tmp_path) if "plan" in values else read_plan(tmp_path)


@pytest.mark.parametrize(
    ("damage", "keys"),
    [
        (lambda v: v.pop("shards"), ["shards"]),
        (lambda v: v.pop("plan"), ["plan"]),
        (lambda v: v.update(extra=1), ["extra"]),
        (lambda v: v["plan"].pop("options"), ["plan.options"]),
        (lambda v: v["plan"].pop("format"), ["plan.format"]),
        (lambda v: v["plan"].update(tokenizers=["s"]), ["plan.tokenizers"]),
        (lambda v: v["counts"].update(rows="2", seen=2), ["counts.rows", "counts.seen"]),
        (lambda v: v["shards"].append({"file": "q"}), ["shards.1.examples", "shards.1.sha256"]),
        (lambda v: v["sources"].append(3), ["sources.1"]),
    ],
)
def test_a_manifest_with_other_keys_is_refused(tmp_path, damage, keys):
    values = MADE.model_dump()
    damage(values)
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError) as caught:
        Manifest.read(tmp_path)
    message = str(caught.value)
    assert message.startswith("prepared data: ") and "Run `tide prepare` again" in message
    assert all(f"{key}: " in message for key in keys)


def test_a_plan_with_other_keys_is_refused(tmp_path):
    assert read_plan(tmp_path) is None
    values = PLAN.model_dump()
    for bad, key in (
        ({}, "sides"),
        ({**values, "colour": "red"}, "colour"),
        ({**values, "shard_rows": "many"}, "shard_rows"),
    ):
        (tmp_path / "plan.json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=rf"plan\.json': .*{key}: .*Pass --overwrite"):
            read_plan(tmp_path)


def test_a_report_is_read_whole_or_not_at_all(tmp_path):
    report = PartReport(counts=MADE.counts, shard=SHARD, sources=MADE.sources)
    write_record(tmp_path / "part.json", report)
    assert PartReport.read(tmp_path / "part.json") == report
    values = report.model_dump()
    for bad in ({}, {**values, "shard": None}, {**values, "more": 1}, {"counts": {}, "shard": {}}):
        (tmp_path / "part.json").write_text(json.dumps(bad))
        with pytest.raises(ValueError, match=r"^prepared data: .*part\.json'"):
            PartReport.read(tmp_path / "part.json")


@pytest.fixture
def shards(tmp_path):
    """A manifest of two shards, of two examples and of one."""
    entries = []
    for name, length in (("a.arrow", 2), ("b.arrow", 1)):
        ids = torch.arange(5)
        write_shard(tmp_path / name, [Example(TokenSequence(ids, ids > 1, torch.full((5,), -1)))] * length)
        entries.append(Shard(file=name, examples=length, sha256=file_hash(tmp_path / name)))
    return changed(MADE, shards=entries)


def test_shards_are_verified_once(shards, tmp_path, monkeypatch):
    read = shards.examples(tmp_path, shared=False)
    assert len(read) == 3 and read.sizes == (2, 1)
    monkeypatch.setattr("tide.preparation.manifest.file_hash", lambda path: pytest.fail("hashed again"))
    assert len(pickle.loads(pickle.dumps(read))) == 3


def test_a_shard_that_was_changed_is_named(shards, tmp_path):
    with pytest.raises(
        ValueError, match=r"shard '.*b\.arrow' is not the one .* holds 1 examples, in the manifest 4"
    ):
        changed(shards, shards=[shards.shards[0], changed(shards.shards[1], examples=4)]).examples(
            tmp_path, shared=False
        )
    whole = (tmp_path / "b.arrow").read_bytes()
    # One bit of a value: the file opens as it did.
    at = whole.rindex(bytes([4, 0, 0, 0]))
    (tmp_path / "b.arrow").write_bytes(whole[:at] + b"\x05" + whole[at + 1 :])
    with pytest.raises(
        ValueError, match=r"shard '.*b\.arrow' is not .* its SHA-256 is \w{12}\.\.\., .* Run `tide"
    ):
        shards.examples(tmp_path, shared=False)
    (tmp_path / "b.arrow").unlink()
    with pytest.raises(
        ValueError, match=r"shard '.*b\.arrow' is not .*: it is missing\. Run `tide prepare` again"
    ):
        shards.examples(tmp_path, shared=False)


def test_a_missing_or_broken_manifest_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"manifest.json' is not there\. Run `tide prepare`"):
        Manifest.read(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(ValueError, match=r"manifest.json' is not finished\. Run `tide prepare`"):
        Manifest.read(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=r"manifest\.json': .*Run `tide prepare` again"):
            Manifest.read(tmp_path)


def test_a_tokenizers_fingerprint_is_its_content():
    tokenizer, again = make_tokenizer(300), make_tokenizer(300)
    fingerprint = tokenizer_fingerprint(tokenizer)
    assert fingerprint == tokenizer_fingerprint(again) != tokenizer_fingerprint(make_tokenizer(310))
    # How it was last called is no part of it.
    again.backend_tokenizer.enable_padding()
    again(["a", "b c d"], truncation=True, max_length=2)
    again("a", split_special_tokens=True)
    assert tokenizer_fingerprint(again) == fingerprint


def normalized(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.NFD()


CHANGES = {
    "template": lambda t: setattr(t, "chat_template", "{{ messages }}"),
    "added": lambda t: t.add_tokens(["<think>"]),
    "normalizer": normalized,
    "split": lambda t: setattr(t, "split_special_tokens", True),
    "eos": lambda t: setattr(t, "eos_token", MASK),
    "mask": lambda t: setattr(t, "mask_token", END),
} | {
    role: lambda t, role=role: setattr(t, f"{role}_token", MASK)
    for role in ("bos", "pad", "unk", "sep", "cls")
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_ids_or_template_changes_the_fingerprint(change):
    tokenizer = make_tokenizer(300)
    before = tokenizer_fingerprint(tokenizer)
    CHANGES[change](tokenizer)
    assert tokenizer_fingerprint(tokenizer) != before


def test_a_fingerprint_outlives_saving(tmp_path):
    tokenizer = make_tokenizer(300)
    tokenizer.pad_token = MASK
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(tokenizer)

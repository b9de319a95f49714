"""A manifest says what shards are made of: equal plans are equal, and counts add up."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

import tide
from tests.tiny import END, MASK, make_tokenizer
from tide.batch import Example, TokenSequence
from tide.data import (
    Counts,
    Manifest,
    PartReport,
    Plan,
    Shard,
    SourceCounts,
    file_hash,
    read_plan,
    tokenizer_fingerprint,
    versions_here,
    write_json,
    write_shard,
)

PLAN = Plan(
    sides="both",
    sources=[{"path": "a.jsonl", "weight": 1.0, "rows": 3, "sha256": "x"}],
    tokenizers={"student": "s", "teacher": "t"},
    options={"max_length": 64},
    shard_rows=10,
)
MADE = Manifest(
    PLAN,
    Counts(rows=2, kept=1, rejected={"no answer": 1}),
    [Shard("p.arrow", 1, "h")],
    [SourceCounts(2, 1, 1)],
)


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
    one, two = SourceCounts(5, 3, 2), SourceCounts(1, 1, 0)
    assert SourceCounts.total([[one, two], [two, two], [SourceCounts(0, 0, 0), one]]) == [
        SourceCounts(6, 4, 2),
        SourceCounts(7, 5, 2),
    ]


def test_plans_differ_where_they_differ():
    assert PLAN.differences(dataclasses.replace(PLAN)) == []
    other = dataclasses.replace(
        PLAN, sources=[*PLAN.sources, {"path": "b"}], options={"max_length": 32, "end_fill": "none"}
    )
    assert PLAN.differences(other) == ["options.end_fill", "options.max_length", "sources.1.path"]


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 1.0), (True, 1.0), (None, False)])
def test_what_python_takes_for_equal_differs_as_a_template_argument(one, other):
    plans = [
        dataclasses.replace(PLAN, options={"student_template_arguments": {"enable_thinking": value}})
        for value in (one, other)
    ]
    assert plans[0].differences(plans[1]) == ["options.student_template_arguments.enable_thinking"]


def test_versions_are_recorded_and_not_compared(tmp_path):
    assert versions_here().keys() == {"tide", "tokenizers", "transformers", "numpy", "pyarrow"}
    assert versions_here()["tide"] == tide.__version__ and versions_here()["numpy"]
    plan = dataclasses.replace(PLAN, versions={"tide": "0.0.1"})
    assert plan.differences(PLAN) == [] and plan != PLAN
    write_json(tmp_path / "plan.json", dataclasses.asdict(plan))
    assert read_plan(tmp_path) == plan


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    MADE.write(tmp_path)
    assert Manifest.read(tmp_path) == MADE
    assert MADE.fingerprint == Manifest.read(tmp_path).fingerprint
    changed = dataclasses.replace(MADE, shards=[Shard("p.arrow", 1, "other")])
    assert changed.fingerprint != MADE.fingerprint


def test_what_earlier_versions_wrote_is_read(tmp_path):
    values = dataclasses.asdict(MADE)
    del values["sources"], values["counts"]["without_chunks"], values["plan"]["versions"]
    for name, of_file in (("manifest.json", values), ("plan.json", values["plan"])):
        write_json(tmp_path / name, of_file)
    assert Manifest.read(tmp_path) == dataclasses.replace(MADE, sources=[])
    assert read_plan(tmp_path) == PLAN


def without(key):
    return lambda values: values.pop(key)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("shards"), r"manifest\.json': shards is no JSON list"),
        (without("plan"), r"manifest\.json': plan is no JSON object"),
        (lambda v: v.update(extra=1), r"manifest\.json' has 'extra', which is unknown"),
        (lambda v: v["plan"].pop("options"), r"manifest\.json': plan has no 'options'"),
        (lambda v: v["plan"].pop("format"), r"manifest\.json': plan has no 'format'"),
        (lambda v: v["plan"].update(tokenizers=["s"]), r"plan has 'tokenizers' of type list"),
        (lambda v: v["counts"].pop("kept"), r"counts has no 'kept'"),
        (
            lambda v: v["counts"].update(rows="2", seen=2),
            r"counts has 'seen', which is unknown, 'rows' of type str",
        ),
        (lambda v: v["shards"].append({"file": "q"}), r"shards has no 'examples', no 'sha256'"),
        (lambda v: v["sources"].append(3), r"sources is no JSON object"),
    ],
)
def test_a_manifest_with_other_keys_is_named(tmp_path, damage, message):
    values = dataclasses.asdict(MADE)
    damage(values)
    write_json(tmp_path / "manifest.json", values)
    with pytest.raises(ValueError, match=rf"^prepared data: .*{message}.*\. Run `tide prepare` again"):
        Manifest.read(tmp_path)


def test_a_plan_with_other_keys_is_named(tmp_path):
    assert read_plan(tmp_path) is None
    values = dataclasses.asdict(PLAN)
    for bad, message in (
        (
            {},
            r"has no 'sides', no 'sources', no 'tokenizers', no 'options', .*no 'format'\. Pass",
        ),
        ({**values, "colour": "red"}, r"plan\.json' has 'colour', which is unknown\. Pass --overwrite"),
        ({**values, "shard_rows": "many"}, r"has 'shard_rows' of type str\. Pass --overwrite"),
        ({**values, "format": 1}, r"plan\.json' has format 1, expected 2\. "),
    ):
        write_json(tmp_path / "plan.json", bad)
        with pytest.raises(ValueError, match=message):
            read_plan(tmp_path)


def test_a_report_is_read_whole_or_not_at_all(tmp_path):
    report = PartReport(MADE.counts, MADE.shards[0], MADE.sources)
    values = dataclasses.asdict(report)
    write_json(tmp_path / "part.json", values)
    assert PartReport.read(tmp_path / "part.json") == report
    for bad in ({}, {**values, "shard": None}, {**values, "more": 1}, {"counts": {}, "shard": {}}):
        write_json(tmp_path / "part.json", bad)
        with pytest.raises(ValueError, match=r"^prepared data: .*part\.json'"):
            PartReport.read(tmp_path / "part.json")


@pytest.fixture
def shards(tmp_path):
    """A manifest of two shards, of two examples and of one."""
    entries = []
    for name, length in (("a.arrow", 2), ("b.arrow", 1)):
        ids = torch.arange(5)
        write_shard(tmp_path / name, [Example(TokenSequence(ids, ids > 1, torch.full((5,), -1)))] * length)
        entries.append(Shard(name, length, file_hash(tmp_path / name)))
    return dataclasses.replace(MADE, shards=entries)


def test_shards_are_verified_once(shards, tmp_path, monkeypatch):
    read = shards.examples(tmp_path, shared=False)
    assert len(read) == 3 and read.sizes == (2, 1)
    monkeypatch.setattr("tide.data.manifest.file_hash", lambda path: pytest.fail("hashed again"))
    assert len(pickle.loads(pickle.dumps(read))) == 3


def test_a_shard_that_was_changed_is_named(shards, tmp_path):
    with pytest.raises(
        ValueError, match=r"shard '.*b\.arrow' is not the one .* holds 1 examples, in the manifest 4"
    ):
        dataclasses.replace(
            shards, shards=[shards.shards[0], dataclasses.replace(shards.shards[1], examples=4)]
        ).examples(tmp_path, shared=False)
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


def test_what_is_no_manifest_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"manifest.json' is not there\. Run `tide prepare`"):
        Manifest.read(tmp_path)
    write_json(tmp_path / "plan.json", {})
    with pytest.raises(ValueError, match=r"manifest.json' is not finished\. Run `tide prepare`"):
        Manifest.read(tmp_path)
    write_json(tmp_path / "manifest.json", {"plan": {"format": 99}})
    with pytest.raises(ValueError, match=r"has format 99, expected 2\. Prepare the data again"):
        Manifest.read(tmp_path)
    for text, message in (("{", "is not JSON"), ("[]", "is no JSON object")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(ValueError, match=message):
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
def test_what_decides_ids_or_templates_changes_the_fingerprint(change):
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

"""A manifest says what shards are made of: equal plans are equal, and counts add up."""

from __future__ import annotations

import dataclasses

import pytest

from tests.tiny import make_tokenizer
from tide.data import Counts, Manifest, Plan, Shard, tokenizer_fingerprint, write_json

PLAN = Plan(
    sides="both",
    sources=[{"path": "a.jsonl", "weight": 1.0, "rows": 3, "sha256": "x"}],
    tokenizers={"student": "s", "teacher": "t"},
    options={"max_length": 64},
    shard_rows=10,
)


def test_counts_add_up():
    one = Counts(rows=5, kept=3, cut=1, student_tokens=30, highest_id=7, dropped={"no answer": 2})
    two = Counts(rows=2, chunks=4, highest_id=3, dropped={"empty answer": 1, "no answer": 1})
    total = Counts.total([one, two, Counts()])
    assert total == Counts(
        rows=7,
        kept=3,
        cut=1,
        student_tokens=30,
        chunks=4,
        highest_id=7,
        dropped={"empty answer": 1, "no answer": 3},
    )
    assert list(total.dropped) == ["empty answer", "no answer"]
    assert str(total) == (
        "7 rows, 3 examples (1 cut at max_length), 30 student tokens, 0 of them learnt, 4 chunks; dropped: "
        "empty answer 1, no answer 3"
    )
    assert str(Counts(rows=1, kept=1)) == "1 rows, 1 examples, 0 student tokens, 0 of them learnt"


def test_plans_differ_where_they_differ():
    assert PLAN.differences(dataclasses.replace(PLAN)) == []
    other = dataclasses.replace(
        PLAN, sources=[*PLAN.sources, {"path": "b"}], options={"max_length": 32, "end_fill": "none"}
    )
    assert PLAN.differences(other) == ["options.end_fill", "options.max_length", "sources.1.path"]


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    manifest = Manifest(PLAN, Counts(rows=2, kept=1, dropped={"no answer": 1}), [Shard("p.arrow", 1, "h")])
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert manifest.fingerprint == Manifest.read(tmp_path).fingerprint
    changed = dataclasses.replace(manifest, shards=[Shard("p.arrow", 1, "other")])
    assert changed.fingerprint != manifest.fingerprint


def test_what_is_no_manifest_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"manifest.json' is not there\. Run `tide prepare`"):
        Manifest.read(tmp_path)
    write_json(tmp_path / "plan.json", {})
    with pytest.raises(ValueError, match=r"manifest.json' is not finished\. Run `tide prepare`"):
        Manifest.read(tmp_path)
    write_json(tmp_path / "manifest.json", {"plan": {"format": 99}})
    with pytest.raises(ValueError, match=r"has format 99, expected 1\. Prepare the data again"):
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
    assert tokenizer_fingerprint(again) == fingerprint
    for change in (
        lambda t: setattr(t, "chat_template", "{{ messages }}"),
        lambda t: t.add_tokens(["<think>"]),
        lambda t: setattr(t, "eos_token", t.mask_token),
    ):
        other = make_tokenizer(300)
        change(other)
        assert tokenizer_fingerprint(other) != fingerprint

"""Bad input: files that are corrupt, rows that make no example, recipes with absurd values."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.config.test_bounds import NUMBERS
from tests.data import test_conversation, test_sources
from tests.tiny import ROWS
from tests.torture.lab import damage
from tide.config import Recipe
from tide.config.reading import declared_keys

if TYPE_CHECKING:
    import random

    from tests.torture.lab import Lab

BAD_ROWS = [
    (value, reason)
    for value, reason, _ in next(
        mark.args[1]
        for mark in test_conversation.test_a_mapping_in_no_form_is_rejected_with_a_reason.pytestmark
    )
    if "bytes" not in _
]
KEYS = [key for key in declared_keys(Recipe) if "*" not in key]
# No number of a recipe may be one of the first.
ABSURD = ("999999999999", "1e300", "-1e300", ".inf", ".nan")
STRANGE = (
    "-1",
    "1e-300",
    "true",
    "null",
    '""',
    "[]",
    "{}",
    "[[1, {a: [2]}]]",
    "x" * 5000,
    "'\\0'",
    "é\u202e",
    "~",
    "/dev/null",
)


def corrupt_file(lab: Lab, draw: random.Random, *, named: str) -> None:
    name = draw.choice([name for name in test_sources.KINDS if re.search(named, name)])
    path = test_sources.KINDS[name](lab.new_folder() / name)
    damage(path, draw, "flip flip flip cut")
    check = lab.tide("distill", lab.chat_recipe, f"data.train={path}", "--check")
    if check.end().status:
        check.refused(names=path)


def bad_rows(lab: Lab, draw: random.Random) -> None:
    path = lab.new_folder() / "rows.jsonl"
    bad = draw.sample(BAD_ROWS, draw.randint(1, 4))
    rows = [json.dumps(value) for value, _ in bad]
    rows += [json.dumps({"prompt": row.prompt, "completion": row.completion}) for row in ROWS]
    draw.shuffle(rows)
    path.write_text("\n".join(rows))
    _, recipe, _ = lab.whole("none")
    ended = lab.tide("distill", recipe, f"data.train={path}", "--check").end()
    assert ended.status == 0 and f"{len(rows)} rows, {len(ROWS)} examples" in ended.out, ended
    for _, reason in bad:
        count = sum(reason == other for _, other in bad)
        assert f"  {count} rejected: {reason}\n" in ended.out, f"{reason!r} {count}: {ended.out}"


def bad_recipe(lab: Lab, draw: random.Random) -> None:
    _, recipe, _ = lab.whole("kl")
    key = draw.choice(KEYS)
    value = draw.choice(ABSURD if key in NUMBERS else ABSURD + STRANGE)
    check = lab.tide("distill", recipe, f"{key}={value}", "--check")
    ended = check.end()
    assert ended.status == 2 or key not in NUMBERS, f"{key}={value[:40]} is accepted"
    assert ended.status == 0 or "tide distill: " in ended.err, f"{key}={value[:40]}: {ended.err[-300:]}"

"""A directory between its plan and its manifest: what is made there, and whether it may stay."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tide.data import (
    MANIFEST_FILE,
    PLAN_FILE,
    Manifest,
    PartReport,
    Plan,
    Rejected,
    different_keys,
    file_hash,
    read_plan,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

# What a preparation writes, ".new" while it does.
_OURS = re.compile(r"(part-\d{5,}\.(arrow|json|rejects\.jsonl)|plan\.json|manifest\.json)(\.new)?")


def part_name(number: int) -> str:
    """The name of a part's files, without their endings."""
    return f"part-{number:05d}"


def rejects_file(directory: Path, name: str) -> Path:
    """Where a part's rows that were set aside are.

    Args:
        directory: of the part.
        name: of the part.
    """
    return directory / f"{name}.rejects.jsonl"


def rejects_in(directory: Path) -> str | None:
    """The file of rows that were set aside, or a glob of several; None if no row was."""
    files = _rejects_files(directory)
    if len(files) > 1:
        return str(rejects_file(directory, "part-*"))
    return str(files[0]) if files else None


def first_reject(directory: Path) -> tuple[str, Rejected]:
    """Place of the first row that was set aside, and why. There has to be one."""
    with _rejects_files(directory)[0].open(encoding="utf-8") as lines:
        reject = json.loads(next(lines))
    return reject["where"], Rejected(reject["reason"], reject["detail"])


def made_parts(directory: Path, numbers: Iterable[int]) -> dict[int, PartReport]:
    """Reports of the parts that are made and whole, by number.

    One that is torn is not made, nor is one whose rows that were set aside are gone.

    Args:
        directory: of the parts.
        numbers: of the parts that the plan has.
    """
    reports = {number: _report(directory, part_name(number)) for number in numbers}
    return {number: report for number, report in reports.items() if report is not None}


def finished(directory: Path, plan: Plan, reports: Mapping[int, PartReport]) -> Manifest | None:
    """The manifest of this plan and these shards, or None where it has to be written.

    Args:
        directory: of the manifest.
        plan: that it has to be of, versions aside.
        reports: of all parts of the plan, in their order.
    """
    try:
        manifest = Manifest.read(directory)
    except ValueError:
        return None
    shards = [report.shard for report in reports.values()]
    return manifest if manifest.shards == shards and not manifest.plan.differences(plan) else None


def clear_for(directory: Path, plan: Plan, *, overwrite: bool) -> None:
    """Makes sure that the directory holds nothing but parts of this plan.

    Args:
        directory: need not be there.
        plan: to be carried out.
        overwrite: clear out parts of another plan, or of one that is missing; other files stay.
    Raises:
        ValueError: it is a file, holds what is no prepared data, or, without `overwrite`, another plan's or
            one whose plan is missing.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"prepare: data.prepared {str(directory)!r} is a file. Name a directory.")
    try:
        there = read_plan(directory)
    except ValueError:
        if not overwrite:
            raise
        _clear(directory)
        return
    if there is None:
        if not directory.is_dir() or not any(directory.iterdir()):
            return
        if not _is_prepared(directory):
            raise ValueError(
                f"prepare: {str(directory)!r} holds files that are no prepared data. Name another directory."
            )
        if not overwrite:
            raise ValueError(
                f"prepare: {str(directory)!r} holds prepared data whose {PLAN_FILE} is missing, so what it "
                "was made from cannot be compared. Pass --overwrite to replace it, or name another "
                "data.prepared."
            )
        _clear(directory)
        return
    changed = plan.differences(there)
    if changed and not overwrite:
        raise ValueError(
            f"prepare: {str(directory)!r} holds data prepared with other {', '.join(changed)}. Pass "
            "--overwrite to replace it, or name another data.prepared."
        )
    if changed:
        _clear(directory)


def keeps_parts(directory: Path, plan: Plan, *, overwrite: bool) -> bool:
    """Whether parts that are there were made by this plan's versions; clears others out if it may.

    Args:
        directory: begun with the same plan, and not finished.
        plan: to go on with.
        overwrite: clear parts of other versions out.
    Raises:
        ValueError: they were made by other versions, without `overwrite`.
    """
    begun = read_plan(directory)
    there = {} if begun is None else begun.versions
    changed = different_keys(there, plan.versions)
    if not changed:
        return True
    if not overwrite:
        there_here = ", ".join(
            f"{name} {there.get(name, 'of a version not recorded')} (here {plan.versions.get(name)})"
            for name in changed
        )
        raise ValueError(
            f"prepare: {str(directory)!r} holds parts that were made by {there_here}, and parts of two "
            "versions are not mixed. Go on with those versions, pass --overwrite to begin again, or name "
            "another data.prepared."
        )
    _clear(directory)
    return False


def _rejects_files(directory: Path) -> list[Path]:
    """In the order of the parts: names of more digits come later."""
    files = (file for file in directory.iterdir() if _OURS.fullmatch(file.name))
    return sorted(
        (file for file in files if file.name.endswith(".rejects.jsonl")),
        key=lambda file: (len(file.name), file),
    )


def _clear(directory: Path) -> None:
    """Removes what a preparation writes and nothing else, the manifest first."""
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
    for file in list(directory.iterdir()):
        if _OURS.fullmatch(file.name):
            file.unlink()


def _is_prepared(directory: Path) -> bool:
    """Whether a manifest of this format is there, and a part of it."""
    try:
        manifest = Manifest.read(directory)
    except ValueError:
        return False
    shards = {shard.file for shard in manifest.shards}
    return any(file.name in shards for file in directory.iterdir() if _OURS.fullmatch(file.name))


def _report(directory: Path, name: str) -> PartReport | None:
    path, shard = directory / f"{name}.json", directory / f"{name}.arrow"
    if not path.is_file() or not shard.is_file():
        return None
    try:
        report = PartReport.read(path)
    except ValueError:
        return None
    if sum(report.counts.rejected.values()) and not rejects_file(directory, name).is_file():
        return None
    is_its = report.shard.file == shard.name and report.shard.sha256 == file_hash(shard)
    return report if is_its else None

"""A directory between its plan and its manifest: what is made there, and whether it may stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide.data import (
    MANIFEST_FILE,
    PLAN_FILE,
    Manifest,
    PartReport,
    Plan,
    different_keys,
    file_hash,
    read_plan,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def part_name(number: int) -> str:
    """The name of a part's files, without their endings."""
    return f"part-{number:05d}"


def made_parts(directory: Path, numbers: Iterable[int]) -> dict[int, PartReport]:
    """Reports of the parts that are made and whole, by number. One that is torn is not made.

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
        overwrite: clear another plan's parts out.
    Raises:
        ValueError: it is a file, holds what is no prepared data, or another plan's without `overwrite`.
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
        if directory.is_dir() and any(directory.iterdir()):
            raise ValueError(
                f"prepare: {str(directory)!r} holds files that are no prepared data. Name another directory."
            )
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


def _clear(directory: Path) -> None:
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
    for pattern in ("part-*.arrow", "part-*.json", "part-*.rejects.jsonl", "*.new", PLAN_FILE):
        for file in directory.glob(pattern):
            file.unlink()


def _report(directory: Path, name: str) -> PartReport | None:
    path, shard = directory / f"{name}.json", directory / f"{name}.arrow"
    if not path.is_file() or not shard.is_file():
        return None
    try:
        report = PartReport.read(path)
    except ValueError:
        return None
    is_its = report.shard.file == shard.name and report.shard.sha256 == file_hash(shard)
    return report if is_its else None

"""The directory of shards while it is prepared: its parts, and whether they may stay."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tide.config import differences
from tide.data import Rejected, ShardedExamples, file_hash
from tide.disk import others_in
from tide.preparation.manifest import (
    MANIFEST_FILE,
    PLAN_FILE,
    Manifest,
    PartReport,
    Plan,
    read_plan,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# What a preparation writes, ".new" while it does.
_OURS = re.compile(r"(part-\d{5,}\.(arrow|json|rejects\.jsonl)|plan\.json|manifest\.json)(\.new)?")


@dataclass(frozen=True)
class ShardDirectory:
    """`data.prepared` of a recipe; it need not exist."""

    path: Path

    def file(self, part: int, kind: Literal["arrow", "json", "rejects.jsonl"]) -> Path:
        """The file of a part's examples, its report, or its rejected rows."""
        return self.path / f"part-{part:05d}.{kind}"

    def reports(self, parts: Iterable[int]) -> dict[int, PartReport]:
        """Read the reports of parts that are whole, their rejected rows included."""
        reports = {}
        for part in parts:
            try:
                report = PartReport.read(self.file(part, "json"))
                shard = self.file(part, "arrow")
                is_whole = (report.shard.file, report.shard.sha256) == (shard.name, file_hash(shard))
                kept = report.counts.kept, report.shard.examples
                is_whole &= kept == (len(ShardedExamples([shard])),) * 2
            except (OSError, ValueError):
                continue
            if is_whole and (not report.counts.rejected or self.file(part, "rejects.jsonl").is_file()):
                reports[part] = report
        return reports

    def finished(self, plan: Plan, reports: Iterable[PartReport]) -> Manifest | None:
        """Read the manifest, if it is of this plan and of all these parts."""
        try:
            manifest = Manifest.read(self.path)
        except ValueError:
            return None
        is_whole = manifest == Manifest.of(manifest.plan, list(reports))
        return manifest if is_whole and not manifest.plan.differences(plan) else None

    def claim(self, plan: Plan, *, overwrite: bool) -> None:
        """Make sure that the directory holds no parts but this plan's; `overwrite` removes others.

        Raises:
            ValueError: it is a file, holds no prepared data, or, without `overwrite`, another plan's.
        """
        where = f"prepare: {str(self.path)!r}"
        try:
            begun = read_plan(self.path)
        except ValueError:
            if not overwrite:
                raise
            return self.clear()
        conflict = None
        if begun is not None:
            if changed := plan.differences(begun):
                conflict = f"data prepared with other {', '.join(changed)}"
        elif self._is_prepared():
            conflict = f"prepared data whose {PLAN_FILE} is missing, so its sources cannot be compared"
        elif set(others_in(self.path)) - {f"{PLAN_FILE}.new"}:  # which a killed preparation leaves
            raise ValueError(f"{where} holds files that are no prepared data. Name another directory.")
        if conflict is None:
            return None
        if not overwrite:
            raise ValueError(
                f"{where} holds {conflict}. Pass --overwrite to replace it, or name another data.prepared."
            )
        return self.clear()

    def version_mismatches(self, plan: Plan) -> list[str]:
        """List the versions that made the parts, where they are not the plan's."""
        begun = read_plan(self.path)
        versions = {} if begun is None else begun.versions
        return [
            f"{name} {there or 'not recorded'} (here {here})"
            for name, (there, here) in differences(versions, plan.versions).items()
        ]

    def clear(self) -> None:
        """Remove what a preparation writes and nothing else, the manifest first."""
        (self.path / MANIFEST_FILE).unlink(missing_ok=True)
        for file in self._ours():
            file.unlink()

    def remove_unfinished(self) -> None:
        """Remove what a process that was killed had not finished writing."""
        for file in self._ours():
            if file.suffix == ".new":
                file.unlink(missing_ok=True)

    def rejects_glob(self) -> str | None:
        """The file of rejected rows, or a glob of several; None if no row was rejected."""
        files = self._rejects_files()
        if len(files) > 1:
            return str(self.path / "part-*.rejects.jsonl")
        return str(files[0]) if files else None

    def first_rejected(self) -> tuple[str, Rejected]:
        """Place and fault of the first rejected row, of which there is one."""
        with self._rejects_files()[0].open(encoding="utf-8") as lines:
            reject = json.loads(next(lines))
        return reject["where"], Rejected(reject["reason"], reject["detail"])

    def _ours(self) -> list[Path]:
        return [file for file in self.path.iterdir() if _OURS.fullmatch(file.name)]

    def _rejects_files(self) -> list[Path]:
        """In the order of the parts: names of more digits come later."""
        files = (file for file in self._ours() if file.name.endswith(".rejects.jsonl"))
        return sorted(files, key=lambda file: (len(file.name), file))

    def _is_prepared(self) -> bool:
        """Return True if a manifest of this format is here, and a part of it."""
        try:
            manifest = Manifest.read(self.path)
        except ValueError:
            return False
        return not {shard.file for shard in manifest.shards}.isdisjoint(file.name for file in self._ours())

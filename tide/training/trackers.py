"""Whether the trackers of a recipe are there. The Trainer looks for them after the models are loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_trackers(names: Sequence[str]) -> None:
    """Checks `training.report_to`.

    Raises:
        ValueError: a name that transformers does not know, or one whose package is not installed.
    """
    if list(names) in (["all"], ["none"]):  # Words of transformers, each for itself.
        return
    # transformers does not list flyte where it is installed.
    available = {*get_available_reporting_integrations(), "flyte"}
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"distill: training.report_to: transformers knows no tracker {name!r}. "
                f"Name some of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, or leave the list empty."
            )
        if name not in available:
            raise ValueError(
                f"distill: training.report_to: {name!r} is not installed here. "
                f"Install it (pip install {name}), or take it out of the list."
            )

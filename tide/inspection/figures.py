"""The look of figures: colours for light and dark pages, axes, legends, PNG.

Figures use matplotlib's object interface on the Agg canvas: no display, no global state.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError(
        'figures need matplotlib, which is optional. In the clone: pip install -e ".[plots]"',
        name="matplotlib",
    ) from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOTS_PER_INCH = 150
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 12.0, 9.5, 9.0  # points


@dataclass(frozen=True)
class Theme:
    """Colours of one appearance: `lines` for the series, `better` behind the side where losses fall."""

    background: str
    ink: str
    muted: str
    grid: str
    better: str
    lines: tuple[str, ...]


# With deuteranopia, protanopia or tritanopia (simulated), any two line colours of a theme stay 10 or more
# apart in CIE Lab, and each keeps a contrast of 3:1 to the background.
LIGHT = Theme(
    background="#ffffff",
    ink="#1d2330",
    muted="#667080",
    grid="#e6e9ee",
    better="#eef5fd",
    lines=("#353b45", "#d06a00", "#0a5ec2", "#b03a6e", "#2a9d8f", "#9d7fe3"),
)
DARK = Theme(
    background="#14181f",
    ink="#e6eaf0",
    muted="#98a2b0",
    grid="#2a313c",
    better="#182436",
    lines=("#e3e8ef", "#f08a24", "#4a9bf5", "#d4578c", "#4cc2ac", "#9b84d6"),
)


def png(figure: Figure) -> bytes:
    """The figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    # Without facecolor, savefig puts the theme on matplotlib's default background.
    background = figure.get_facecolor()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor=background, metadata={"Software": None})
    return buffer.getvalue()


def new_figure(width: float, height: float, heading: str, theme: Theme) -> Figure:
    """An empty figure of this size in inches, its heading at the upper left."""
    figure = Figure(figsize=(width, height), facecolor=theme.background)
    figure.set_layout_engine("constrained", h_pad=0.05, w_pad=0.07)
    figure.suptitle(heading, x=0.008, ha="left", color=theme.ink, fontsize=TITLE_SIZE, weight="bold")
    return figure


def style_axes(axes: Axes, theme: Theme, title: str, x_label: str, y_label: str) -> None:
    """Set colours, title and labels; draw the grid, and no frame at the top and on the right."""
    axes.set_facecolor(theme.background)
    axes.set_title(title, loc="left", color=theme.ink, fontsize=LABEL_SIZE + 0.5)
    axes.set_xlabel(x_label, color=theme.ink, fontsize=LABEL_SIZE)
    axes.set_ylabel(y_label, color=theme.ink, fontsize=LABEL_SIZE)
    axes.tick_params(colors=theme.muted, labelsize=TICK_SIZE, length=3)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)


def add_legend(axes: Axes, theme: Theme) -> None:
    """Add a legend under the panel if any series has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            loc="upper left",
            bbox_to_anchor=(0, -0.17),
            ncols=3,
            fontsize=TICK_SIZE,
            labelcolor=theme.ink,
            handlelength=2.2,
            columnspacing=1.4,
            borderaxespad=0,
            frameon=False,
        )

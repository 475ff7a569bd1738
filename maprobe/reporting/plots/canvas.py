"""The one style of all pictures, and how a figure becomes a file: no display, no date, the same bytes each time."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maprobe.errors import ReportError
from maprobe.reporting.plots.captions import wrapped
from maprobe.reporting.writing import replace_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "RED",
    "SUFFIXES",
    "Undrawable",
    "plain_numbers",
    "require_matplotlib",
    "save",
    "sheet",
    "styled",
    "titled",
]

# Colours that colour-blind people can tell apart (Okabe and Ito).
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#6b6b6b"
SUFFIXES = (".png", ".svg")
_STYLE: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],  # it comes with matplotlib, so that pictures are the same on every machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 160,
    "text.parse_math": False,  # a token may well hold dollar signs
    "svg.hashsalt": "maprobe",
    "svg.fonttype": "path",
}
_LINE = 0.155  # inches from one line of a title to the next


class Undrawable(Exception):  # noqa: N818 - it is no error: there is nothing to see
    """A Reading has nothing that its picture could show; the text says why."""


def require_matplotlib() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        ReportError: matplotlib is not installed, or cannot be loaded.
    """
    try:
        with _quiet():
            import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ReportError(
            f"pictures are drawn with matplotlib, which cannot be loaded ({error}); install it with "
            f"`pip install 'maprobe[plots]'`, or leave `--plots` out"
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Let what matplotlib uses be deprecated, where the user has warnings raised: it is not theirs to change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextmanager
def styled() -> Iterator[None]:
    """Draw and save in the one style, whatever the user's own settings of matplotlib are."""
    with _quiet():
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            settings: Any = matplotlib.rcParams
            settings.update(_STYLE)
            yield


def sheet(width: float, height: float) -> Figure:
    """Return an empty figure of that size in inches. It belongs to no window system."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def titled(figure: Figure, headline: str, lines: Sequence[str]) -> None:
    """Write a headline above a figure, and below it what was measured on which inputs, wrapped to the width."""
    width, height = figure.get_size_inches()
    told = [part for line in lines for part in wrapped(line, int(width * 15.5))]
    base = 1 + 0.06 / height
    figure.text(0.01, base, "\n".join(told), fontsize=8, color=GREY, va="bottom", linespacing=1.25)
    above = base + (0.05 + _LINE * len(told)) / height
    headlines = "\n".join(wrapped(headline, int(width * 11.5)))
    figure.text(0.01, above, headlines, fontsize=10.5, weight="bold", va="bottom")


def plain_numbers(axes: Axes, which: str) -> None:
    """Label the ticks of one axis (``x``, ``y``, ``z``) with plain numbers, powers of ten from a million on."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis: Axis = getattr(axes, f"{which}axis")
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float) -> str:
    if not value:
        return "0"
    if 1e-3 <= abs(value) < 1e6:  # noqa: PLR2004
        return f"{value:,.10g}".replace(",", "\u2009").replace("-", "\u2212")
    return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e").replace("-", "\u2212")


def save(figure: Figure, path: Path) -> None:
    """Write a figure, in the format of the path's suffix, in one step.

    Raises:
        ReportError: the file cannot be written; what was there before is unchanged.
    """
    suffix = path.suffix.lower()
    buffer = io.BytesIO()
    metadata = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": "maprobe"}
    figure.savefig(buffer, format=suffix[1:], bbox_inches="tight", pad_inches=0.12, metadata=metadata)
    replace_bytes(path, buffer.getvalue())

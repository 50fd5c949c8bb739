"""What all figures share: fonts, sizes, and text that draws without a warning whatever a class is called."""

import contextlib
import io
import math
from collections.abc import Iterator

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# 10.4 inches take about 1,040 pixels of the page, a point 1.4 of them; sharp screens get more to show.
WIDTH = 10.4
_DPI = 160
_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "text.usetex": False,
    "text.parse_math": True,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Within it figures look alike, whatever the reader's own matplotlib settings are."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    return buffer.getvalue()


def printable(text: str, length: int = 40) -> str:
    """The text on one line, cut to `length`, with `?` for characters the font cannot draw (it would warn)."""
    glyphs = get_font(findfont(FontProperties(family="DejaVu Sans"))).get_charmap()
    line = "".join(letter if ord(letter) in glyphs else "?" for letter in " ".join(text.split()))
    return line if len(line) <= length else line[: length - 1] + "…"


def legend(axes: Axes, **settings: object) -> None:
    """A legend that shows every `$` as it stands: model names are not formulas."""
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    for text in axes.legend(handles, names, **settings).get_texts():
        text.set_parse_math(False)


def log_scale(axes: Axes, side: str, low: float, high: float) -> None:
    """A log axis with few ticks, plainly written: powers of ten, on short axes also their 2 and 5 times."""
    getattr(axes, f"set_{side}scale")("log")
    getattr(axes, f"set_{side}lim")(low, high)
    axis = getattr(axes, f"{side}axis")
    decades = math.log10(high / low)
    if decades <= 2:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    else:
        axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(_tick))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float, _position: int | None) -> str:
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    return f"$10^{{{round(math.log10(value))}}}$" if value > 0 else ""

"""One colour and one line style a model, the same in every figure and in the table."""

import dataclasses
from collections.abc import Iterable

# Retraining is the reference, so it is black and gray; the others take the colours of Okabe and Ito ("Color
# Universal Design", 2008), which stay apart under the common kinds of colour blindness.
_REFERENCE = {"original": ("#d55e00", "-"), "retrain": ("#222222", "-"), "retrain_again": ("#8c8c8c", "--")}
_METHODS = ("#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LINES = ("-", "-.", ":", "--")


@dataclasses.dataclass(frozen=True)
class Style:
    """How a model is drawn: a hexadecimal colour, and a line style as matplotlib names it."""

    color: str
    line: str


def model_styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for each model; methods take theirs by their order, and none repeats before the 21st."""
    styles, methods = {}, 0
    for name in names:
        if name in _REFERENCE:
            styles[name] = Style(*_REFERENCE[name])
        else:
            line = _LINES[methods // len(_METHODS) % len(_LINES)]
            styles[name] = Style(_METHODS[methods % len(_METHODS)], line)
            methods += 1
    return styles

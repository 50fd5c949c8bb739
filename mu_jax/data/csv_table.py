"""Comma-separated files with a named label column: Adult and the like."""

import csv
import difflib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32

from mu_jax.config import InputError
from mu_jax.data.dataset import Dataset
from mu_jax.data.files import user_path
from mu_jax.data.random_streams import host_stream

_MISSING = frozenset(["", "?", "NA", "nan", "NaN", "NAN", "-nan"])
_TEST_SHARE = 0.2
_BLOCK = 2_000  # rows: text takes ten times the memory of numbers, and what stays in cache is read faster
_SOME = 10


def load(file: str | os.PathLike, label: str, seed: int) -> Dataset:
    """The table in a file whose first line names its columns; `label` names the one that holds the classes.

    Columns of numbers are kept as they are, in float32 (whole numbers are exact up to 2²⁴). A column in which any value
    is no number becomes whole numbers 0, 1, … by the sorted order of its words. Labels of either kind become 0..C-1 by
    sorted value, and the values the class names. A fifth of the rows, drawn by `seed`, is the test set; both parts keep
    the order of the file. Spaces around values and lines without any are left out. InputError for values that are
    missing (empty, NA, ? or nan) or outside float32's range, lines of another length, columns without a name or of one
    name, and labels of a single class, or of so many that they are no classes.
    """
    path = user_path(file)
    names, columns = _read(path, label)
    place = names.index(label)
    labels, class_names = _classes(path, label, columns[place])
    features = [_values(column) for i, column in enumerate(columns) if i != place]
    rows = np.empty((len(labels), len(features)), np.float32)
    for i, values in enumerate(features):
        rows[:, i] = values
    is_test = np.zeros(len(labels), bool)
    tested = max(1, round(_TEST_SHARE * len(labels)))
    is_test[host_stream(seed, "csv test set").choice(len(labels), tested, replace=False)] = True
    rows = rows[:, None, None, :]
    return Dataset(
        name=f"csv:{path.name}",
        x_train=rows[~is_test],
        y_train=labels[~is_test],
        x_test=rows[is_test],
        y_test=labels[is_test],
        class_names=class_names,
    )


class _Column:
    """One column, given block by block: its numbers, or codes of its words, of no order yet."""

    def __init__(self, path: Path, name: str, dtype: type, holds_words: bool) -> None:
        self.path, self.name, self.dtype = path, name, dtype
        self.holds_words = holds_words
        self.turned_late = False
        """words came after blocks of numbers, whose spelling is gone"""
        self.missing = 0
        self.first_missing = ""
        self.parts: list[np.ndarray] = []
        self.codes: dict[str, int] = {}
        self.spellings: dict[str, int] = {}
        """the codes of words with the spaces around them"""

    def take(self, values: Sequence[str], lines: Sequence[int]) -> None:
        """One block: its values, and the number of the line of each."""
        numbers = None if self.holds_words else _numbers(values)
        if numbers is None:
            # Of each spelling once: the words of a column are few.
            words = {value: value.strip() for value in set(values)}
            lost = {value for value, word in words.items() if word in _MISSING}
            if lost:
                places = [i for i, value in enumerate(values) if value in lost]
                if not self.missing:
                    self.first_missing = (
                        f"the first on line {lines[places[0]]} ({words[values[places[0]]]!r})"
                    )
                self.missing += len(places)
                values = [value for value in values if value not in lost]
                # Nothing will come of this column: what is left only says of which kind it is.
                numbers = None if self.holds_words else _numbers(values)
        if numbers is None:
            self.turned_late |= not self.holds_words and bool(self.parts)
            self.holds_words = True
            for value, word in words.items():
                self.spellings[value] = self.codes.setdefault(word, len(self.codes))
            self.parts.append(np.fromiter(map(self.spellings.__getitem__, values), np.int32, len(values)))
        else:
            self.parts.append(self._in_range(numbers, values, lines))

    def _in_range(
        self, numbers: Float64[np.ndarray, "n"], values: Sequence[str], lines: Sequence[int]
    ) -> Float[np.ndarray, "n"]:
        with np.errstate(over="ignore"):
            narrow = numbers.astype(np.float32)
        if not self.missing and not (finite := np.isfinite(narrow)).all():
            i = int(np.argmin(finite))
            raise InputError(
                f"{self.path}: column {self.name!r} holds {values[i].strip()!r} on line {lines[i]}, but expected "
                "numbers of float32's range, ±3.4e38; correct it or drop the line."
            )
        return narrow if self.dtype is np.float32 else numbers


def _numbers(values: Sequence[str]) -> Float64[np.ndarray, "n"] | None:
    """The values as numbers, or None where any is none."""
    try:
        numbers = np.fromiter(map(float, values), np.float64, len(values))
    except ValueError:
        return None
    # Python reads 1_000 as a number, but in a table it is the name of something.
    if np.isnan(numbers).any() or "_" in "".join(values):
        return None
    return numbers


def _read(path: Path, label: str) -> tuple[list[str], list[_Column]]:
    if not path.is_file():
        raise InputError(
            f"{path} is not a file, but expected comma-separated values; check data.source's path."
        )
    words: frozenset[int] = frozenset()
    while True:
        names, columns = _read_once(path, label, words)
        late = {i for i, column in enumerate(columns) if column.turned_late}
        if not late:
            break
        words |= late  # a second reading, because the first kept numbers, and not how they are spelled
    for column in columns:
        if column.missing:
            others = [other.name for other in columns if other.missing and other is not column]
            also = f", as {len(others)} other columns have" if others else ""
            raise InputError(
                f"{path}: column {column.name!r} has {column.missing} missing values, {column.first_missing}{also}, "
                "but expected a value on every line; fill them in or drop those lines."
            )
    return names, columns


def _read_once(path: Path, label: str, words: frozenset[int]) -> tuple[list[str], list[_Column]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        try:
            names = _header(path, label, next(reader, []))
            columns = [
                _Column(path, name, np.float64 if name == label else np.float32, i in words)
                for i, name in enumerate(names)
            ]
            for rows, lines in _blocks(path, reader, len(names)):
                for column, values in zip(columns, zip(*rows, strict=True), strict=True):
                    column.take(values, lines)
        except csv.Error as error:
            raise InputError(
                f"{path} line {reader.line_num} cannot be read ({error}), but expected comma-separated values; correct "
                "its quotes."
            ) from None
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path} cannot be read after line {reader.line_num} ({error.reason}), but expected text in UTF-8; "
                "save it as such."
            ) from None
    if not columns[0].parts and not columns[0].missing:
        raise InputError(
            f"{path} names {len(names)} columns and has no line below, but expected one an example; check the file."
        )
    return names, columns


def _blocks(path: Path, reader, width: int) -> Iterator[tuple[list[list[str]], list[int]]]:
    """Rows, and the line that each starts on: quoted values may hold line breaks."""
    rows: list[list[str]] = []
    lines: list[int] = []
    line = reader.line_num + 1
    for row in reader:
        if len(row) == width:
            rows.append(row)
            lines.append(line)
        elif len(row) > 1 or (row and row[0].strip()):
            raise InputError(
                f"{path} line {line} has {len(row)} values, but expected {width}, as many as the first line names; "
                "correct the line, and quote values that hold commas."
            )
        line = reader.line_num + 1
        if len(rows) == _BLOCK:
            yield rows, lines
            rows, lines = [], []
    if rows:
        yield rows, lines


def _header(path: Path, label: str, names: list[str]) -> list[str]:
    names = [name.strip() for name in names]
    if len(names) < 2:
        raise InputError(
            f"{path} starts with {','.join(names)[:80]!r}, but expected a first line that names two columns or more, "
            "separated by commas; convert the file."
        )
    for i, name in enumerate(names):
        if not name:
            raise InputError(
                f"{path}: column {i + 1} of {len(names)} has no name in the first line, but expected one for each; "
                "name it, or save without row numbers (pandas: index=False)."
            )
        if names.index(name) != i:
            raise InputError(f"{path} names two columns {name!r}, but expected a name for each; rename one.")
    if label not in names:
        close = difflib.get_close_matches(label, names, n=1) or [
            name for name in names if name.lower() == label.lower()
        ]
        listed = ", ".join(names[:_SOME]) + (", …" if len(names) > _SOME else "")
        hint = f"did you mean {close[0]!r}?" if close else "name the one that holds the classes"
        raise InputError(
            f"{path} has no column {label!r}, but the columns {listed}; {hint} (--config.data.label=NAME)"
        )
    return names


def _values(column: _Column) -> Float32[np.ndarray, "N"]:
    if not column.holds_words:
        return np.concatenate(column.parts)
    return _codes(column)[0].astype(np.float32)


def _codes(column: _Column) -> tuple[Int32[np.ndarray, "N"], list[str]]:
    """Each word's place in the sorted order, and the words in that order."""
    words = sorted(column.codes)
    rank = np.empty(len(words), np.int32)
    rank[[column.codes[word] for word in words]] = np.arange(len(words), dtype=np.int32)
    return rank[np.concatenate(column.parts)], words


def _classes(path: Path, label: str, column: _Column) -> tuple[Int32[np.ndarray, "N"], tuple[str, ...]]:
    if column.holds_words:
        labels, names = _codes(column)
    else:
        values, labels = np.unique(np.concatenate(column.parts), return_inverse=True)
        names = [str(int(value)) if value.is_integer() else str(value) for value in values.tolist()]
    if len(names) == 1:
        raise InputError(
            f"{path}: column {label!r} holds {names[0]!r} alone, but expected two classes or more; name another column "
            "with --config.data.label=NAME."
        )
    if 2 * len(names) > len(labels):
        raise InputError(
            f"{path}: column {label!r} holds {len(names)} different values on {len(labels)} lines, but expected "
            "classes of two examples or more on average; name another column with --config.data.label=NAME."
        )
    return labels.astype(np.int32), tuple(names)

"""Comma-separated files: what is read, in which form, and one clear sentence for each thing that is wrong."""

import csv
import re

import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError
from mu_jax.data import csv_table, load_dataset

ADULT = """\
age, workclass, hours, income
39, State-gov, 40, <=50K
50, Private, 13.5, <=50K
38, Private, 40, >50K

53, "Self-emp, inc", -4e1, >50K
28, State-gov, 40, <=50K
"""


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(path, label="label", seed=0, **settings):
    return load_dataset(DataConfig(source=f"csv:{path}", label=label, **settings), seed)


def in_order(dataset):
    """Rows and labels, sorted: which of them are test examples is left out."""
    rows = np.concatenate([dataset.images[:, 0, 0], dataset.labels[:, None]], axis=1)
    return sorted(map(tuple, rows.tolist()))


def slow(path, label):
    """The same from the definitions, cell by cell."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = [line for line in csv.reader(file, skipinitialspace=True) if line]
    names, *lines = [[cell.strip() for cell in line] for line in lines]
    columns = {}
    for name, cells in zip(names, zip(*lines, strict=True), strict=True):
        try:
            columns[name] = [float(cell) for cell in cells]
        except ValueError:
            words = sorted(set(cells))
            columns[name] = [words.index(cell) for cell in cells]
    classes = sorted(set(columns[label]))
    columns[label] = [classes.index(value) for value in columns[label]]
    order = [name for name in names if name != label] + [label]
    rows = np.array([columns[name] for name in order], np.float32).T
    return sorted(map(tuple, rows.tolist()))


def test_by_hand(tmp_path):
    dataset = load(write(tmp_path, ADULT, "adult.csv"), "income")
    assert dataset.is_tabular and dataset.name == "csv:adult.csv"
    assert dataset.class_names == ("<=50K", ">50K")
    assert (dataset.x_train.shape, dataset.x_test.shape) == ((4, 1, 1, 3), (1, 1, 1, 3))
    # Private 0, "Self-emp, inc" 1, State-gov 2.
    expected = [(39, 2, 40, 0), (50, 0, 13.5, 0), (38, 0, 40, 1), (53, 1, -40, 1), (28, 2, 40, 0)]
    assert in_order(dataset) == sorted(expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(", ", ","),
        lambda text: re.sub(r"(\w), ", r"\1 ,  ", text),
        lambda text: text.removesuffix("\n"),
        lambda text: text + "\n  \n",
    ],
    ids=["mark", "carriage returns", "no spaces", "more spaces", "no last line end", "blank lines"],
)
def test_spelling_that_does_not_matter(tmp_path, change):
    plain = load(write(tmp_path, ADULT), "income")
    other = load(write(tmp_path, change(ADULT), "other.csv"), "income")
    assert other.fingerprint() == plain.fingerprint() and other.class_names == plain.class_names


@pytest.mark.parametrize("block", [1, 3, 7, 1000])
def test_equals_its_slow_twin_in_blocks_of_any_size(tmp_path, monkeypatch, block):
    """Among the columns are words that come late, after blocks of numbers alone."""
    monkeypatch.setattr(csv_table, "_BLOCK", block)
    rng = np.random.default_rng(block)
    late = ["7"] * 30 + ["07", "seven", "7"] * 10
    later = ["1e2"] * 58 + ["1_000", "7"]
    words = rng.choice(["ab", "a b", "B", 'say "no"', "é", "x,y", "10"], 60).tolist()
    with open(tmp_path / "many.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "late", "kind", "words", "later"])
        numbers = rng.normal(size=60) * 10.0 ** rng.integers(-8, 8, 60)
        kinds = rng.integers(8, 11, 60).tolist()
        writer.writerows(zip(numbers.tolist(), late, kinds, words, later, strict=True))
    # Python takes 1_000 for a number.
    text = (tmp_path / "many.csv").read_text(encoding="utf-8").replace("1_000", "1_k")
    twin = write(tmp_path, text, "twin.csv")
    for label in ("kind", "words"):
        assert in_order(load(tmp_path / "many.csv", label)) == slow(twin, label)
    assert load(tmp_path / "many.csv", "kind").class_names == ("8", "9", "10")
    assert load(tmp_path / "many.csv", "late").class_names == ("07", "7", "seven")


def pairs(labels):
    return "x,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels))


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        (["10", "9", "9", "10"], ("9", "10"), [1, 0, 0, 1]),
        (["1", "1.0", "-1", "-1.00"], ("-1", "1"), [1, 1, 0, 0]),
        (["0.5", "2", "2", "0.5"], ("0.5", "2"), [0, 1, 1, 0]),
        (["10", "9", "b", "9", "10", "b"], ("10", "9", "b"), [0, 1, 2, 1, 0, 2]),
        (["True", "False", "True", "False"], ("False", "True"), [1, 0, 1, 0]),
        (["16777217", "16777216", "16777216", "16777217"], ("16777216", "16777217"), [1, 0, 0, 1]),
    ],
)
def test_labels_of_any_kind_become_classes_by_sorted_value(tmp_path, labels, names, numbers):
    dataset = load(write(tmp_path, pairs(labels)))
    assert dataset.class_names == names
    assert in_order(dataset) == [(i, number) for i, number in enumerate(numbers)]


def test_a_fifth_is_for_testing_drawn_by_the_seed_in_the_files_order(tmp_path):
    path = write(tmp_path, pairs(["a", "b"] * 50))
    first, again, other = (load(path, seed=seed) for seed in (3, 3, 4))
    assert (len(first.y_train), len(first.y_test)) == (80, 20)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    for rows in (first.x_train[:, 0, 0, 0], first.x_test[:, 0, 0, 0]):
        assert np.all(np.diff(rows) > 0)
    assert not np.array_equal(first.x_test.ravel(), np.arange(80, 100))
    np.testing.assert_array_equal(first.labels, first.images[:, 0, 0, 0] % 2)
    part = load(path, seed=3, train_examples=10, test_examples=5)
    assert (len(part.y_train), len(part.y_test)) == (10, 5)
    assert set(part.x_test.ravel()) <= set(first.x_test.ravel())


def adult(old, new):
    assert old in ADULT
    return ADULT.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (adult("28, State-gov", "28, ?"), "'workclass' has 1 missing values, the first on line 7 ('?'), but"),
        (adult("50, ", " , "), "column 'age' has 1 missing values, the first on line 3 (''), but expected"),
        (adult(" 40,", " nan,"), "column 'hours' has 3 missing values, the first on line 2 ('nan'), but"),
        (adult("State-gov, 40", "NA, NA"), "'workclass' has 2 missing values, the first on line 2 ('NA'), as 1 other"),
        (adult("State-gov, 40, <=50K\n50", "State-gov, 40, \n50"), "column 'income' has 1 missing values, the first"),
        (adult("13.5, ", ""), "line 3 has 3 values, but expected 4, as many as the first line names"),
        (adult('"Self-emp, inc"', "Self-emp, inc"), "line 6 has 5 values, but expected 4"),
        (adult('"Self-emp, inc"', '"Self-emp"!'), "line 6 cannot be read"),
        (adult('"Self-emp, inc"', '"Self-emp, inc'), "line 7 cannot be read"),
        (adult("13.5", "1e39"), "column 'hours' holds '1e39' on line 3, but expected numbers of float32's range"),
        (adult("13.5", "-inf"), "column 'hours' holds '-inf' on line 3"),
        (adult("income", "Income"), "no column 'income', but the columns age, workclass, hours, Income; did you mean"),
        (adult("income", "INCOME"), "did you mean 'INCOME'?"),
        (adult("income", "y"), "no column 'income', but the columns age, workclass, hours, y; name the one that"),
        (adult("hours", "age"), "names two columns 'age'"),
        (adult("age", ""), "column 1 of 4 has no name in the first line, .* (pandas: index=False)"),
        (ADULT.replace(">50K", "<=50K"), "column 'income' holds '<=50K' alone, but expected two classes or more"),
        (adult(">50K\n\n", "much\n\n"), "column 'income' holds 3 different values on 5 lines"),
        (ADULT.replace(",", ";"), "starts with 'age; workclass; hours; income', but expected"),
        ("age,income\n", "names 2 columns and has no line below"),
        ("", "starts with '', but expected"),
        (ADULT.encode().replace(b"Private", b"Priv\xe9"), "cannot be read after line .*, but expected text in UTF-8"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    pattern = re.escape(message).replace(r"\.\*", ".*")
    with pytest.raises(InputError, match=pattern) as refusal:
        load(path, "income")
    assert "table.csv" in str(refusal.value) and "\n" not in str(refusal.value)


def test_missing_values_are_counted_over_blocks_and_numbered_by_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_table, "_BLOCK", 4)
    rows = [f'{i},"two\nlines",{i % 2}' for i in range(10)]
    # Each example starts two lines below the one before it, the first on line 2.
    rows[6], rows[8] = '?,"two\nlines",0', ',"two\nlines",1'
    with pytest.raises(InputError, match=r"'x' has 2 missing values, the first on line 14 \('\?'\), but"):
        load(write(tmp_path, "x,words,label\n" + "\n".join(rows)))
    rows[7] = '3000_000,"two\nlines",0'
    with pytest.raises(InputError, match="'x' has 2 missing values, the first on line 14"):
        load(write(tmp_path, "x,words,label\n" + "\n".join(rows)))


def test_no_file_and_a_label_for_another_source(tmp_path):
    with pytest.raises(InputError, match="nowhere.csv is not a file, but expected comma-separated values"):
        load("nowhere.csv")
    with pytest.raises(InputError, match="is not a file"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"'csv', but expected an argument after the colon; .* 'csv:FILE'"):
        load_dataset(DataConfig(source="csv"), 0)
    with pytest.raises(InputError, match="data.label is 'income', but 'digits' has no columns"):
        load_dataset(DataConfig(label="income"), 0)

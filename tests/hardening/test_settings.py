"""Settings of every kind, from files and flags: a config, or one sentence, and nothing else."""

import dataclasses
import json
import pathlib
import re
import sys

import pytest
from absl import flags
from hypothesis import strategies as st

from mu_jax import main
from mu_jax.config import (
    EXPERIMENTS,
    OptimizationConfig,
    default_config,
    from_config_dict,
    to_dict,
    with_settings,
)

MANY = pytest.param(3_000, marks=pytest.mark.slow)
ROOT = pathlib.Path(__file__).parents[2]
STRANGE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 1, 2, 2**31, 2**63, -(2**63), 10**400, 1e300, 5e-324, 0.5, 1.0, -0.0]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["~", "npz:", "resnet18", "inf", "nan", "a\0b", "\x1b[31m", "x" * 9_000, "\ud800", "1_0"]
    ),
    st.binary(max_size=3),
    st.lists(st.one_of(st.integers(-2, 9), st.floats(), st.text(max_size=2), st.none()), max_size=4),
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), st.integers(), max_size=2),
    st.builds(object),
)
ODD_TEXT = st.one_of(
    st.text(st.characters(exclude_characters="\0"), max_size=12),
    st.sampled_from(
        [
            "",
            "-1",
            "1e400",
            "nan",
            "inf",
            "-inf",
            "9" * 5000,
            "[" * 3000,
            "(1,)",
            "(1,2,3)",
            "{}",
            "[1",
            "0x10",
            "1_000",
            "True",
            "None",
            "__import__('os').system('true')",
            "1;2",
            "'",
            '"',
            "é",
            "\n",
            "a\nb",
            "\x1b[2J",
            "%s",
            "{x}",
        ]
    ),
)


def places(values, prefix=()):
    """The path of every group and setting."""
    for key, value in values.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from places(value, (*prefix, key))


def changed(data, values):
    for _ in range(data.draw(st.integers(1, 2))):
        *groups, key = data.draw(st.sampled_from(sorted(places(values), key=repr)))
        holder = values
        for group in groups:
            holder = holder[group] if isinstance(holder, dict) else {}
            holder = holder if isinstance(holder, dict) else {}
        kind = data.draw(st.sampled_from(["value", "value", "value", "new", "missing"]))
        if kind == "missing":
            holder.pop(key, None)
        else:
            holder[key if kind == "value" else data.draw(st.one_of(st.text(max_size=5), st.integers()))] = (
                data.draw(STRANGE)
            )


@pytest.mark.parametrize("examples", [40, MANY])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_values_from_a_file(fuzz, one_sentence, experiment, examples):
    default = to_dict(EXPERIMENTS[experiment]())

    def check(data):
        values = json.loads(json.dumps(default))
        changed(data, values)
        config = one_sentence(lambda: from_config_dict(values))
        if config is not None:
            again = from_config_dict(json.loads(json.dumps(to_dict(config), allow_nan=False)))
            assert again == config and dataclasses.is_dataclass(config)

    fuzz(check, examples)


@pytest.mark.parametrize(
    "experiment",
    ["spectra", *(pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS if name != "spectra")],
)
def test_every_number_at_its_ends(one_sentence, experiment):
    """Each setting by itself, at numbers that no array or clock can have: most are refused, none raises else."""
    default = to_dict(EXPERIMENTS[experiment]())
    refused = 0
    for *groups, key in places(default):
        for number in (float("nan"), float("inf"), -1, -1e300, 2**63, 10**400, True, "1"):
            values = json.loads(json.dumps(default))
            holder = values
            for group in groups:
                holder = holder[group]
            if isinstance(holder[key], dict):
                continue
            holder[key] = number
            refused += one_sentence(lambda values=values: from_config_dict(values)) is None
    assert refused > 4 * len(list(places(default)))


@pytest.mark.parametrize("examples", [200, MANY])
def test_settings_in_a_text(fuzz, one_sentence, examples):
    """As rows of tables and `configs/unlearning_search.py` have them."""

    def check(data):
        key = data.draw(st.one_of(st.sampled_from(["epochs", "batch_size", "flip", "optimizer"]), ODD_TEXT))
        text = f"{key}={data.draw(ODD_TEXT)}" if data.draw(st.booleans()) else data.draw(ODD_TEXT)
        found = one_sentence(lambda: with_settings(OptimizationConfig(), text, "methods"))
        assert found is None or isinstance(found, OptimizationConfig)

    fuzz(check, examples)


@pytest.fixture(name="parsed")
def parsed_fixture(monkeypatch, capsys, one_sentence):
    """`parsed(flags)`: what the command line makes of them, None where it refuses in one line of its own."""
    monkeypatch.chdir(ROOT)

    def parsed(*given):
        flags.FLAGS.unparse_flags()
        for name in [name for name in flags.FLAGS if name.startswith("config.")]:
            delattr(flags.FLAGS, name)  # of an earlier call
        argv = ["mu-jax", "--config=configs/quickstart.py:smoke", *given]
        monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for what is overridden
        try:
            main._parse(argv)
        except SystemExit as end:
            parsed.said = said = capsys.readouterr().err
            assert end.code == 2
            assert said.startswith("mu-jax: ") and said.endswith("\n") and said.count("\n") == 1, said
            assert not re.search(r'File ".+", line \d+', said) and len(said) < 3_000
            return None
        return one_sentence(lambda: from_config_dict(main._CONFIG.value.to_dict()))

    yield parsed
    flags.FLAGS.unparse_flags()


KEYS = [".".join(place) for place in places(default_config("unlearning_comparison").to_dict())]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections calls it
@pytest.mark.parametrize("examples", [120, MANY])
def test_flags(fuzz, parsed, examples):
    def check(data):
        key = data.draw(st.one_of(st.sampled_from(KEYS), ODD_TEXT))
        form = data.draw(
            st.sampled_from(["--config.{}={}", "--config.{} {}", "--{}={}", "--no{}", "-{}", "{}"])
        )
        parsed(*form.replace("{}", key, 1).replace("{}", data.draw(ODD_TEXT), 1).split(" ", 1))

    fuzz(check, examples)
    found = parsed("--config.train.epochs=3")
    assert found is not None, parsed.said
    assert found.train.epochs == 3


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections calls it
def test_a_flag_runs_no_code(parsed, tmp_path):
    for key in ("data.source", "train.epochs", "data.mean", "forget.classes", "experiment"):
        for text in (
            "__import__('os').mkdir('{}')",
            "(__import__('os').mkdir('{}'),)",
            "!!python/object:os.mkdir",
        ):
            parsed(f"--config.{key}={text.format(tmp_path / 'ran')}")
    assert not (tmp_path / "ran").exists()

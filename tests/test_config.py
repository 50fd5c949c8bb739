import dataclasses
import importlib.util
import pathlib

import pytest

from mu_jax import config as config_module
from mu_jax.config import (
    EXPERIMENTS,
    InputError,
    OptimizationConfig,
    UnlearningComparison,
    default_config,
    first_difference,
    from_config_dict,
    to_dict,
    with_settings,
)
from mu_jax.config.methods import SalunConfig

CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.py"))


def load(path, variant=""):
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("variant", ["", "smoke"])
def test_every_config_file_is_valid_and_survives_a_round_trip(path, variant):
    config = from_config_dict(load(path, variant).to_dict())
    assert from_config_dict(to_dict(config)) == config


@pytest.mark.parametrize(
    "variant",
    ["half", "no_retain", "ablation", "requests", "gpu", "small", "half+no_retain", "small+requests"],
)
def test_the_variants_of_amun_are_valid_and_may_be_joined(variant):
    (path,) = (path for path in CONFIGS if path.stem == "amun")
    config = from_config_dict(load(path, variant).to_dict())
    assert (config.forget.fraction == 0.5) == ("half" in variant)
    retained = [
        config.methods.amun.retain,
        config.methods.salun.retain,
        config.methods.gradient_ascent.retain,
    ]
    assert retained == [("no_retain" not in variant)] * 3
    assert ("finetune" in config.names) == ("no_retain" not in variant and variant != "ablation")
    assert (config.requests.number == 5) == ("requests" in variant)


@pytest.mark.parametrize("size", ["", "gpu", "small", "smoke"])
def test_joined_variants_of_amun_each_do_what_they_say_in_any_order(size):
    (path,) = (path for path in CONFIGS if path.stem == "amun")

    def joined(*names):
        return from_config_dict(load(path, "+".join(filter(None, names))).to_dict())

    parts = ["half", "no_retain", "ablation", "requests", size]
    every = joined(*parts)
    for turn in range(len(parts)):
        turned = parts[turn:] + parts[:turn]
        assert joined(*turned) == joined(*reversed(turned)) == every
    alone = joined(size)
    for key in ("seed", "data", "model", "train", "study", "pool", "robust", "loop", "evaluation"):
        assert getattr(every, key) == getattr(alone, key)
    assert every.forget.fraction == 0.5 and every.requests.number == 5
    assert every.names == joined("ablation").names and "amun_random_label" in every.names
    for method in ("amun", "amun_salun"):
        mine, of_size = (getattr(config.methods, method) for config in (every, alone))
        assert not mine.retain and of_size.retain
        # Else `amun` and `amun_advonly` would be one method.
        assert mine.forget
        assert mine.optimization == dataclasses.replace(
            of_size.optimization, epochs=20.0, schedule="step", step_epochs=5.0
        )


def test_of_sizes_joined_the_smaller_one_wins():
    (path,) = (path for path in CONFIGS if path.stem == "amun")
    for variant, winner in (("small+gpu", "small"), ("smoke+gpu", "smoke"), ("smoke+small", "smoke")):
        assert load(path, variant).to_dict() == load(path, winner).to_dict()


@pytest.mark.parametrize("variant", ["", "half", "small", "smoke"])
def test_settings_are_searched_for_the_very_original_that_methods_are_compared_on(variant):
    both = {path.stem: path for path in CONFIGS}
    compared, searched = (
        from_config_dict(load(both[name], variant).to_dict()) for name in ("amun", "unlearning_search")
    )
    for key in ("seed", "data", "forget", "model", "train", "loop", "neighbours"):
        assert getattr(compared, key) == getattr(searched, key)
    assert compared.methods.gradient_ascent.retain == searched.methods.gradient_ascent.retain
    for name in ("amun", "salun", "scrub"):
        theirs, ours = (getattr(config.methods, name).optimization for config in (compared, searched))
        for key in ("batch_size", "crop_padding", "flip", "momentum", "weight_decay"):
            assert getattr(theirs, key) == getattr(ours, key)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_refuses_unknown_variants(path):
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        load(path, "smok")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_says_how_to_run_it_and_what_to_expect(path):
    header = path.read_text().split('"""')[1]
    for word in ("--config=", "Expected time", "Expected result"):
        assert word in header


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_defaults_are_the_dataclass_defaults(experiment):
    assert from_config_dict(default_config(experiment).to_dict()) == EXPERIMENTS[experiment]()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trian": {}}, "'trian' is not a setting; did you mean 'train'"),
        ({"train": {"learning_rat": 0.1}}, "did you mean 'train.learning_rate'"),
        ({"train": {"epochs": "many"}}, "train.epochs is 'many', but expected a value of type float"),
        ({"train": {"batch_size": 2.5}}, "train.batch_size is 2.5, but expected a value of type int"),
        ({"train": {"flip": 1}}, "train.flip is 1, but expected a value of type bool"),
        ({"finetune": {"epochs": 0.0}}, "finetune.epochs is 0.0, .* --config.finetune.epochs=VALUE"),
        ({"train": {"schedule": "cosin"}}, "train.schedule is .*did you mean 'cosine'"),
        ({"forget": {"fraction": 1.0}}, "forget.fraction is 1.0"),
        ({"forget": {"classes": (1, 1)}}, "no class twice"),
        ({"forget": {"classes": ("a",)}}, "forget.classes is 'a', but expected a value of type int"),
        ({"data": {"std": (0.0,)}}, "data.std"),
        ({"model": 3}, "model is 3, but expected a group of settings"),
        ({"seed": True}, "seed is True, but expected a value of type int"),
        ({"seed": -1}, "seed is -1"),
        ({"evaluation": {"fpr": (2.0,)}}, "evaluation.fpr"),
        ({"loop": {"chunk_steps": 0}}, "loop.chunk_steps is 0"),
    ],
)
def test_bad_settings_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        from_config_dict({"experiment": "unlearning_comparison", **changes})


def test_a_group_of_settings_takes_changes_from_a_line_of_text():
    changed = with_settings(
        SalunConfig(), "share=0.25, optimization.epochs=3,optimization.schedule=step", "x"
    )
    optimization = dataclasses.replace(SalunConfig().optimization, epochs=3.0, schedule="step")
    assert changed == SalunConfig(optimization, share=0.25)
    assert isinstance(changed.optimization.epochs, float)


@pytest.mark.parametrize(
    "changes, message",
    [
        ("shar=0.25", "row 'x' changes 'shar=0.25', but expected KEY=VALUE .*redraw, retain, share"),
        ("share", "row 'x' changes 'share', but expected KEY=VALUE"),
        ("optimization.epoch=3", "changes 'optimization.epoch=3'"),
        ("share.epochs=3", "changes 'share.epochs=3'"),
        ("share=much", "row 'x': share is 'much', but expected a value of type float; correct it there"),
        ("share=2", "row 'x': share is 2"),
    ],
)
def test_changes_of_settings_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        with_settings(SalunConfig(), changes, "row 'x'")


def test_an_unknown_experiment_is_refused():
    with pytest.raises(InputError, match="did you mean 'unlearning_comparison'"):
        from_config_dict({"experiment": "unlearning_comparision"})


def test_a_whole_number_serves_as_a_float_and_one_value_as_a_tuple():
    config = from_config_dict(
        {"experiment": "unlearning_comparison", "train": {"epochs": 3}, "forget": {"classes": 4}}
    )
    assert config.train.epochs == 3.0
    assert isinstance(config.train.epochs, float)
    assert config.forget.classes == (4,)


def test_first_difference_names_the_key_and_both_values():
    old, new = to_dict(UnlearningComparison()), to_dict(UnlearningComparison())
    assert first_difference(old, new) is None
    new["train"]["epochs"] = 7.0
    assert first_difference(old, new) == "train.epochs was 30.0 and is now 7.0"
    del new["train"]["epochs"]
    assert first_difference(old, new) == "train.epochs was 30.0 and is now None"


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        OptimizationConfig().epochs = 3.0


def test_every_setting_is_documented_or_plain():
    """Settings whose name does not say it all carry a docstring; these few names do."""
    plain = {
        "experiment", "batch_size", "nesterov", "data", "forget", "model", "loop", "evaluation",
        "schedule_by_epoch", "step_factor", "train", "finetune", "sweep", "query", "sisa", "adversary",
        "random_labels", "boundary_shrink", "l1_sparse", "salun", "scrub", "negative_gradient_plus", "gradient_ascent",
        "amun", "amun_salun", "methods", "neighbours", "study", "pool", "robust", "requests", "search",
        "boundary_expanding", "delete", "svd_projection", "scar", "linear_filtration", "trw", "trw_head", "shadows",
        "nearest_neighbour", "ulira", "leaks",
    }  # fmt: skip
    files = sorted(pathlib.Path(config_module.__file__).parent.glob("*.py"))
    source = [line for file in files for line in file.read_text().splitlines()]
    assert sum("@dataclasses.dataclass" in line for line in source) > 10
    for i, line in enumerate(source):
        if line.startswith("    ") and ": " in line and " = " in line and line[4].isalpha():
            name = line.strip().partition(":")[0]
            if name.isidentifier() and name not in plain and not line.startswith("     "):
                assert source[i + 1].strip().startswith('"""'), f"{name} has no docstring"

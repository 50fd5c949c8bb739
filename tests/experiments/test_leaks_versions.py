"""Who learns what: roles, versions and pairs of the experiment on leaks."""

import dataclasses

import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.config.leaks import SCENARIOS, LeaksConfig
from mu_jax.experiments.leaks_lessons import distinct, retraining, sharded
from mu_jax.experiments.leaks_versions import draw_roles, plan_side, substituted

CONFIG = LeaksConfig(
    originals=3,
    unlearned=6,
    training_examples=40,
    scenarios=SCENARIOS,
    group_sizes=(4,),
    intermediates=(3,),
    online_sizes=(2,),
    sisa_shards=4,
)


@pytest.fixture(scope="module")
def roles():
    return draw_roles(200, "shadow", 0)


@pytest.fixture(scope="module")
def plan(roles):
    return plan_side("shadow", roles, CONFIG, 0)


def test_roles_share_no_example_and_leave_none_out(roles):
    everything = np.concatenate([roles.members, roles.never, roles.replacements])
    assert sorted(everything) == list(range(200))
    assert (len(roles.members), len(roles.never), len(roles.replacements)) == (160, 34, 6)


def test_sides_and_seeds_have_roles_of_their_own(roles):
    for other in (draw_roles(200, "target", 0), draw_roles(200, "shadow", 1)):
        assert not np.array_equal(roles.members, other.members)


def test_a_version_has_its_originals_rows_without_the_deleted_and_with_the_added(plan):
    by_name = {version.name: version for version in plan.versions}
    assert len(by_name) == len(plan.versions)
    for version in plan.versions:
        origin = by_name[f"shadow{version.original}"]
        expected = (set(origin.rows) - set(version.deleted)) | set(version.added)
        assert set(version.rows) == expected and len(version.rows) == len(expected)
        assert set(version.deleted) <= set(origin.rows)
        assert not set(version.added) & set(origin.rows)


def test_members_were_learned_before_and_not_after_and_others_by_neither(plan, roles):
    by_name = {version.name: version for version in plan.versions}
    for scenario in plan.scenarios:
        for pair in scenario.pairs:
            before, after = by_name[pair.before], by_name[pair.after]
            assert before.original == after.original == pair.original
            if not pair.member:
                assert pair.row in roles.never
                assert pair.row not in before.rows and pair.row not in after.rows
            elif scenario.kind == "remaining":
                assert pair.row in before.rows and pair.row in after.rows
            else:
                assert pair.row in before.rows and pair.row not in after.rows


def test_each_scenario_asks_of_as_many_members_as_others(plan):
    names = [scenario.name for scenario in plan.scenarios]
    assert names == ["single", "group4", "intermediates3", "online2", "remaining"]
    for scenario in plan.scenarios:
        members = sum(pair.member for pair in scenario.pairs)
        assert 2 * members == len(scenario.pairs)
        assert members >= CONFIG.originals * CONFIG.unlearned
    assert {len(v.deleted) for v in plan.versions if ".group4." in v.name} == {4}
    assert {(len(v.deleted), len(v.added)) for v in plan.versions if ".online2." in v.name} == {(2, 2)}


def test_an_attacker_of_intermediates_holds_any_two_in_their_order(plan):
    scenario = next(one for one in plan.scenarios if one.kind == "intermediates")

    def number(name):
        return int(name.rsplit(".", 1)[1]) if "." in name else 0

    steps = {(number(pair.before), number(pair.after)) for pair in scenario.pairs}
    assert all(first < second for first, second in steps)
    assert len(steps) > 2


def test_what_one_scenario_draws_does_not_depend_on_the_others(plan, roles):
    alone = plan_side("shadow", roles, dataclasses.replace(CONFIG, scenarios=("group",)), 0)
    by_name = {version.name: version for version in plan.versions}
    for version in alone.versions:
        np.testing.assert_array_equal(version.rows, by_name[version.name].rows)


def test_substitutes_stand_in_the_deleted_ones_places(plan):
    by_name = {version.name: version for version in plan.versions}
    for version in plan.versions:
        origin = by_name[f"shadow{version.original}"]
        rows = substituted(version, origin, 0)
        changed = rows != origin.rows
        assert set(origin.rows[changed]) == set(version.deleted)
        assert not set(rows) & set(version.deleted)
        assert set(version.added) <= set(rows)
        assert len(rows) == len(origin.rows)


def test_retraining_shares_nothing_or_the_originals_start(plan):
    apart = retraining("cnn", plan, 0, shares_start=False)
    start = retraining("cnn", plan, 0, shares_start=True)
    for version in plan.versions:
        (own,), (shared,) = apart[version.name], start[version.name]
        assert own.stream == own.name == f"cnn {version.name}"
        assert shared.stream == f"cnn shadow{version.original}"
        np.testing.assert_array_equal(np.sort(own.rows), np.sort(version.rows))
    # Both have the same originals, which are trained once.
    assert len(distinct([apart, start])) == 2 * len(plan.versions) - CONFIG.originals


def test_shards_are_trained_anew_only_where_an_example_left_or_came(plan):
    lessons = sharded("cnn", plan, 0, CONFIG.sisa_shards)
    for version in plan.versions:
        mine, origin = lessons[version.name], lessons[f"shadow{version.original}"]
        assert len(mine) == CONFIG.sisa_shards
        together = np.concatenate([lesson.rows for lesson in mine])
        assert sorted(together) == sorted(version.rows)
        for shard, (lesson, before) in enumerate(zip(mine, origin, strict=True)):
            touched = set(before.rows) != set(lesson.rows)
            assert (lesson.name != before.name) == touched, (version.name, shard)
        if len(version.deleted) == 1:
            assert sum(a.name != b.name for a, b in zip(mine, origin, strict=True)) == 1


def test_settings_that_the_data_cannot_bear_are_refused(roles):
    for change, words in (
        ({"training_examples": 161}, "leaks.training_examples is 161"),
        ({"unlearned": 40}, "leaks.unlearned is 40"),
        ({"online_sizes": (7,)}, "leaks.online_sizes holds 7"),
    ):
        with pytest.raises(InputError, match=words):
            plan_side("shadow", roles, dataclasses.replace(CONFIG, **change), 0)
    with pytest.raises(InputError, match="has no example left"):
        few = dataclasses.replace(CONFIG, sisa_shards=40, scenarios=("single",))
        sharded("cnn", plan_side("shadow", roles, few, 0), 0, 40)

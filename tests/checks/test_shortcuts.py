import numpy as np
import pytest

from finetune.checks.shortcuts import ALL_FACTS, Shortcut, find_shortcuts, shortcut_findings

SIX = np.array(["a", "b", "c", "d", "e", "f"])


def table(seed, *, rows=120, groups=20):
    """Properties that are unrelated to the labels: (facts, labels, units)."""
    random = np.random.default_rng(seed)
    facts = {name: random.normal(size=rows) for name in ("shape", "size", "duration")}
    return facts, SIX[np.arange(rows) % 6], np.array([f"group {each}" for each in random.integers(0, groups, rows)])


def test_a_shape_that_one_class_alone_has_is_told_with_the_class():
    facts, labels, units = table(0)
    facts["shape"] = np.where(labels == "d", 0.7, 1.4) + 0.1 * facts["shape"]
    first, *others = find_shortcuts(facts, labels, units)
    shape = next(each for each in (first, *others) if each.fact == "shape")
    (told,) = shape.told
    assert told.name == "d" and told.found == 1 and told.mistaken == 0
    assert told.median == pytest.approx(0.7, abs=0.1) and told.median_of_others == pytest.approx(1.4, abs=0.1)
    assert {each.fact for each in (first, *others) if each.alarm} <= {"shape", ALL_FACTS}
    (finding,) = shortcut_findings((first, *others))
    assert "gives away “d” (recall 100\u00a0%, portrait: width ÷ height 0.6" in finding.what
    assert finding.severity == "warning"


def test_one_class_in_thirty_is_told_though_the_accuracy_of_all_hardly_rises():
    random = np.random.default_rng(1)
    labels = np.array([f"class {number:02}" for number in np.arange(600) % 30])
    facts = {"frame rate": np.where(labels == "class 07", 12.0, 30.0) + random.normal(0, 0.5, 600)}
    (found,) = find_shortcuts(facts, labels, np.arange(600))
    assert found.balanced_accuracy < 0.15
    assert [each.name for each in found.told] == ["class 07"]


def test_facts_are_spoken_of_together_only_where_none_tells_alone():
    def found(fact, alarm):
        return Shortcut(fact, 0.5, 0.25, alarm, ())

    (finding,) = shortcut_findings([found(ALL_FACTS, True), found("shape", False)])
    assert (
        "all file properties together predict the class with a balanced accuracy of 50\u00a0% (25\u00a0% by chance)."
        in finding.what
    )
    (finding,) = shortcut_findings([found(ALL_FACTS, True), found("codec", True)])
    assert "the codec of a clip alone" in finding.what
    assert shortcut_findings([found(ALL_FACTS, False), found("shape", False)]) == []


@pytest.mark.slow
def test_data_without_shortcuts_raises_hardly_an_alarm():
    """At most one of 25; the permutation test limits the rate to one in a hundred."""
    alarms = [any(each.alarm for each in find_shortcuts(*table(seed, rows=90))) for seed in range(25)]
    assert sum(alarms) <= 1


def test_facts_of_a_group_whose_clips_have_one_label_are_one_observation_and_no_alarm():
    """Two classes of three people each: that their cameras differ by class may well be chance."""
    random = np.random.default_rng(3)
    people = np.repeat(np.arange(6), 20)
    labels = np.where(people < 3, "sits", "stands")
    facts = {"size": np.where(people < 3, 1.0, 2.0) + random.normal(0, 0.01, 120)}
    assert not any(each.alarm for each in find_shortcuts(facts, labels, people))
    assert any(each.alarm for each in find_shortcuts(facts, labels, np.arange(120)))


def test_too_few_rows_or_groups_or_one_class_give_no_answer():
    facts, labels, units = table(4)
    few = {name: values[:18] for name, values in facts.items()}
    assert find_shortcuts(few, labels[:18], units[:18]) == []
    assert find_shortcuts(facts, labels, np.arange(120) % 4) == []
    assert find_shortcuts(facts, np.full(120, "a"), units) == []
    assert find_shortcuts({"shape": np.ones(120)}, labels, units) == []

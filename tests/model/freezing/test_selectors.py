"""What a phase's `train` names."""

import pytest

from finetune.errors import ModelError
from finetune.model.freezing.selectors import lora_settings, select_parameters, stages_from
from finetune.model.freezing.stages import Stage

NAMES = ["stem", "layer1", "layer2", "layer3", "layer4", "temporal", "head"]
STAGES = {name: Stage((f"{name}.weight", f"{name}.bias"), (), ()) for name in NAMES}


def stages_of(parameters):
    return [name for name in NAMES if any(parameter.startswith(f"{name}.") for parameter in parameters)]


@pytest.mark.parametrize(
    ("what", "learning"),
    [
        ("head", ["temporal", "head"]),
        ("temporal", ["temporal", "head"]),
        ("layer4", ["layer4", "temporal", "head"]),
        ("layer2", ["layer2", "layer3", "layer4", "temporal", "head"]),
        ("last(1)", ["layer4", "temporal", "head"]),
        ("last(2)", ["layer3", "layer4", "temporal", "head"]),
        ("last( 0 )", ["temporal", "head"]),
        ("all", NAMES),
        (0.0, ["temporal", "head"]),
        (0.05, ["layer4", "temporal", "head"]),
        (0.4, ["layer3", "layer4", "temporal", "head"]),
        (1, NAMES),
        (["head"], ["head"]),
        (["layer3", "stem"], ["stem", "layer3"]),
        (["last(2)", "head"], ["layer3", "layer4", "head"]),
    ],
)
def test_what_learns_is_named(what, learning):
    chosen = select_parameters(STAGES, what)
    assert stages_of(chosen) == learning
    assert chosen == {parameter for name in learning for parameter in STAGES[name].parameters}


def test_a_pattern_names_parameters_and_nothing_else():
    assert select_parameters(STAGES, "match(^layer[12].*bias$)") == {"layer1.bias", "layer2.bias"}
    assert select_parameters(STAGES, ["match(bias$)", "head"]) == {f"{name}.bias" for name in NAMES} | {"head.weight"}


def test_names_match_as_the_backbone_gives_them():
    stages = {"stem": Stage(("backbone.net.conv1.weight", "backbone.net.bn1.weight"), (), ())}
    assert select_parameters(stages, "match(^conv1)") == {"backbone.net.conv1.weight"}


def test_a_part_that_a_model_does_not_have_learns_nothing_in_a_list():
    without = {name: stage for name, stage in STAGES.items() if name != "temporal"}
    assert select_parameters(without, ["layer4", "temporal", "head"]) == select_parameters(without, ["layer4", "head"])
    assert stages_from(tuple(without), "head") == ["head"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("layer5", r"unknown stage 'layer5' \(nearest: layer4.*there are stem, layer1.*last\(n\) with n up to 5"),
        ("last(6)", r"unknown stage 'last\(6\)'"),
        (["neck"], "unknown stage 'neck'; there are stem, layer1"),
        (1.5, "share of the depth is between 0 and 1, this is 1.5"),
        ("match(gamma)", r"match\(gamma\) names no parameter; there are stem.weight, .* and 9 more"),
        ("match([)", r"match\(\[\) is no regular expression"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(what, message):
    with pytest.raises(ModelError, match=message):
        select_parameters(STAGES, what)


@pytest.mark.parametrize(
    ("what", "settings"),
    [
        ("head", None),
        (0.5, None),
        ("lora()", {"r": 8, "alpha": 16}),
        ("lora(r=4)", {"r": 4, "alpha": 8}),
        (["layer4", "lora(r=4, alpha=4)"], {"r": 4, "alpha": 4}),
    ],
)
def test_lora_has_a_rank_and_a_weight(what, settings):
    assert lora_settings(what) == settings


@pytest.mark.parametrize("what", ["lora(8)", "lora(rank=8)", "lora(r=0)"])
def test_other_settings_of_lora_are_refused(what):
    with pytest.raises(ModelError, match=r"write lora\(r=8\)"):
        lora_settings(what)

"""Selectors, as in a phase's `unfreeze`: stages, a share of the depth, patterns on parameter names, LoRA matrices."""

import re
from collections.abc import Mapping, Sequence

from finetune.errors import ModelError, shorten_list, suggest_similar
from finetune.model.freezing.stages import HEAD_STAGES, Stage

Selector = str | float | Sequence[str]
CALL_PATTERN = re.compile(r"\s*(last|match|lora)\((.*)\)\s*", re.DOTALL)
LORA_PATTERN = re.compile(r"\.lora_")


def select_parameters(stages: Mapping[str, Stage], what: Selector) -> frozenset[str]:
    """Names of the selected parameters; see `set_trainable`. Raises ModelError for an unknown stage or no match."""
    if isinstance(what, str | float | int):
        return _select_alone(stages, what)
    return frozenset().union(*(_select_in_list(stages, item) for item in what))


def stages_from(names: Sequence[str], what: str | float) -> list[str]:
    """The stages of a single selector: a stage and all later ones, `last(n)`, `all`, or a share of the depth."""
    new = [name for name in names if name in HEAD_STAGES]
    backbone = [name for name in names if name not in HEAD_STAGES]
    if isinstance(what, float | int):
        if not 0 <= what <= 1:
            raise ModelError(f"a share of the depth is between 0 and 1, this is {what:g}")
        # Any share above 0 selects at least one stage.
        count = round(len(backbone) * what) or int(what > 0)
        return backbone[len(backbone) - count :] + new
    call = CALL_PATTERN.fullmatch(what)
    if what == "all":
        return list(names)
    if what in HEAD_STAGES:
        return new
    if call and call[1] == "last" and call[2].strip().isdecimal() and int(call[2]) <= len(backbone):
        return backbone[len(backbone) - int(call[2]) :] + new
    if what in names:
        return list(names[list(names).index(what) :])
    known = ", ".join([*names, "all", f"last(n) with n up to {len(backbone)}"])
    raise ModelError(f"unknown stage {what!r}{suggest_similar(what, names)}; there are {known}")


def lora_settings(what: Selector) -> dict[str, int] | None:
    """The settings `r` and `alpha` of `lora(r=8, alpha=16)` in a selector; None if it has no lora."""
    for item in [what] if isinstance(what, str) else what if isinstance(what, Sequence) else ():
        call = CALL_PATTERN.fullmatch(item)
        if call and call[1] == "lora":
            return _parse_lora(item, call[2])
    return None


def _select_alone(stages: Mapping[str, Stage], what: str | float) -> frozenset[str]:
    call = CALL_PATTERN.fullmatch(what) if isinstance(what, str) else None
    if call and call[1] == "match":
        return _matching(stages, call[2])
    if call and call[1] == "lora":
        return _lora_parameters(stages) | _stage_parameters(stages, [name for name in HEAD_STAGES if name in stages])
    return _stage_parameters(stages, stages_from(tuple(stages), what))


def _select_in_list(stages: Mapping[str, Stage], item: str) -> frozenset[str]:
    """The parameters of one item of a list, in which a stage means only itself."""
    call = CALL_PATTERN.fullmatch(item)
    if item in stages:
        return _stage_parameters(stages, [item])
    if item in HEAD_STAGES:
        return frozenset()  # such as `temporal`, where the pooling has no parameters
    if call and call[1] == "match":
        return _matching(stages, call[2])
    if call and call[1] == "lora":
        return _lora_parameters(stages)
    if call:
        return _stage_parameters(stages, [name for name in stages_from(tuple(stages), item) if name not in HEAD_STAGES])
    raise ModelError(f"unknown stage {item!r}{suggest_similar(item, tuple(stages))}; there are {', '.join(stages)}")


def _stage_parameters(stages: Mapping[str, Stage], names: Sequence[str]) -> frozenset[str]:
    return frozenset(parameter for name in names for parameter in stages[name].parameters)


def _matching(stages: Mapping[str, Stage], pattern: str) -> frozenset[str]:
    """Parameters whose name, without the prefix `backbone.net.`, contains a match."""
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        raise ModelError(f"match({pattern}) is no regular expression: {error}") from None
    names = [name for stage in stages.values() for name in stage.parameters]
    matching = frozenset(name for name in names if wanted.search(name.removeprefix("backbone.net.")))
    if not matching:
        raise ModelError(
            f"match({pattern}) names no parameter; there are "
            f"{shorten_list([n.removeprefix('backbone.net.') for n in names])}"
        )
    return matching


def _lora_parameters(stages: Mapping[str, Stage]) -> frozenset[str]:
    return frozenset(name for stage in stages.values() for name in stage.parameters if LORA_PATTERN.search(name))


def _parse_lora(item: str, inside: str) -> dict[str, int]:
    settings = {"r": 8, "alpha": 0}
    for part in filter(None, (part.strip() for part in inside.split(","))):
        name, _, number = (word.strip() for word in part.partition("="))
        if name not in settings or not number.isdecimal() or int(number) == 0:
            raise ModelError(f"{item!r}: write lora(r=8) or lora(r=8, alpha=16), with whole numbers above 0")
        settings[name] = int(number)
    return {"r": settings["r"], "alpha": settings["alpha"] or 2 * settings["r"]}

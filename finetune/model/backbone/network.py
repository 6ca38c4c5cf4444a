"""What the two libraries' networks have in common: the module without its classifier, and what is known of it."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.backbone.load_weights import StateDict

TOWER_PATTERN = re.compile(r"\.towers\.[01](?=\.|$)")  # in names of modules of a TowerPair
RESERVED_STAGE_NAMES = ("temporal", "head", "all")
# Children that hold a network's parts one after the other: each part is a stage.
STAGE_CONTAINERS = (
    "features",
    "blocks",
    "stages",
    "dense_stages",
    "transformers",
    "trunk_output",
    "layers",
    "encoder.layers",
)


@dataclass(frozen=True)
class InputSpec:
    """What the backbone was trained on.

    `size` in pixels a side; mean and std of RGB in 0…1; how pictures were resized (`bilinear`, `bicubic`); of a
    video backbone the frames of a clip.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    num_frames: int | None = None


@dataclass(frozen=True)
class Network:
    """A network that gives one vector of `width` a picture, or a clip's vectors over time.

    `stage_of` names the stage of each parameter of `net`, in order from input to output. `feature_map` gives, for
    what `net` takes, the values before they are pooled over space: (N, C, h, w), (N, tokens, C), and of clips
    (B, C, T', h, w). `time_stride` frames become one step in time; None: a whole clip does. With `fixed_frames` it
    takes clips of the length that it was built for alone. `download` fetches the published weights and says from
    where; `translate` fits weights of another size or version to it.
    """

    net: nn.Module
    width: int
    spec: InputSpec
    stage_of: dict[str, str]
    feature_map: Callable[[nn.Module, Tensor], Tensor]
    download: Callable[[], tuple[str, StateDict]]
    head_prefixes: tuple[str, ...]
    translate: Callable[[StateDict, nn.Module], StateDict] | None = None
    takes_clips: bool = False
    time_stride: int | None = 1
    fixed_frames: bool = False


def stages_by_name(net: nn.Module) -> dict[str, object]:
    """Groups of parameters for `name_stages`, by the names alone: layers before the first container are the stem."""
    groups: dict[str, object] = {}
    modules = dict(net.named_modules())
    at_start = True
    for name, _ in net.named_parameters():
        container = next((c for c in STAGE_CONTAINERS if name.startswith(f"{c}.")), None)
        depth = 1 if container is None else container.count(".") + 2
        group = ".".join(name.split(".")[:depth])
        alone = container is None and not list(modules.get(group, nn.Identity()).children())
        at_start = at_start and (alone or name.endswith("pos_embedding"))
        groups[name] = "stem" if at_start else group
    return groups


def name_stages(net: nn.Module, groups: Mapping[str, object]) -> dict[str, str]:
    """The stage of each parameter: the first is the `stem`, others have the shortest prefix that is theirs alone.

    `groups` are in order from input to output. A parameter that stands in several places is named at each.
    """
    order = list(dict.fromkeys(groups.values()))
    names = {order[0]: "stem"}
    for group in order[1:]:
        first = next(name for name, other in groups.items() if other == group).split(".")
        others = [name for name, other in groups.items() if other != group]
        prefixes = [".".join(first[:length]) for length in range(1, len(first) + 1)]
        names[group] = next(
            prefix
            for prefix in prefixes
            if prefix not in RESERVED_STAGE_NAMES and not any(f"{name}.".startswith(f"{prefix}.") for name in others)
        )
    stage_of = {name: names[group] for name, group in sorted(groups.items(), key=lambda item: order.index(item[1]))}
    owner = {parameter: stage_of[name] for name, parameter in net.named_parameters()}
    every = {name: owner[parameter] for name, parameter in net.named_parameters(remove_duplicate=False)}
    return stage_of | every


def name_without_tower(name: str) -> str:
    """The name that a module or parameter has in the single network, whichever tower it belongs to."""
    return TOWER_PATTERN.sub("", name)


def set_drop_path(net: nn.Module, kind: type[nn.Module], attribute: str, rate: float) -> None:
    """Scale the rates of all layers of a `kind` so that the highest is `rate`. Raises ModelError where there are none.

    Libraries let the rate rise in a line from the first block to the last, and some give their networks a rate of
    their own; 0 is none at all, whatever the library thinks best.
    """
    layers = [module for module in net.modules() if isinstance(module, kind)]
    highest = max((float(getattr(layer, attribute)) for layer in layers), default=0.0)
    if rate > 0 and highest == 0:
        raise ModelError(f"model.drop_path is {rate}, and this backbone has no residual paths to drop; set it to 0")
    for layer in layers:
        setattr(layer, attribute, getattr(layer, attribute) * rate / highest if rate else 0.0)

"""The common form of both libraries' networks: a module without classifier, its stages, and facts about its input."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.backbone.load_weights import StateDict
from finetune.model.backbone.weights_source import WeightsSource

TOWER_PATTERN = re.compile(r"\.towers\.[01](?=\.|$)")  # in names of modules of a TowerPair
RESERVED_STAGE_NAMES = ("pyramid", "temporal", "head", "all")
# Children that hold a network's blocks in sequence; each block is a stage.
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
    """The input in pretraining: side in pixels, mean and standard deviation of RGB in 0…1, how pictures were resized.

    `interpolation` is `bilinear` or `bicubic`; `num_frames` is the clip length of video networks, else None.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    num_frames: int | None = None


@dataclass(frozen=True)
class Network:
    """A network without classifier: `net` takes (N, C, H, W) to (N, `width`), or clips if `takes_clips`.

    Clips are (B, C, T, H, W), and the output is (B, `width` T'). `stage_of` names the stage of each parameter, in
    order from input to output. `feature_map` computes features before spatial pooling from the input of `net`:
    (N, C, h, w), tokens (N, L, C), or of clips (B, C, T', h, w). `time_stride` frames become one time step; None means
    that the whole clip does. With `fixed_frames`, clips must have the length that the network was built for.
    `download` returns the address and the published weights, `published` describes them; `translate` converts weights
    of another size or version.
    """

    net: nn.Module
    width: int
    spec: InputSpec
    stage_of: dict[str, str]
    feature_map: Callable[[nn.Module, Tensor], Tensor]
    download: Callable[[], tuple[str, StateDict]]
    published: WeightsSource
    head_prefixes: tuple[str, ...]
    translate: Callable[[StateDict, nn.Module], StateDict] | None = None
    takes_clips: bool = False
    time_stride: int | None = 1
    fixed_frames: bool = False


def stages_by_name(net: nn.Module) -> dict[str, object]:
    """A group for each parameter, for `name_stages`, by its name; layers before the first container are the stem."""
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
    """The stage of each parameter: the first group is `stem`, others are named by the shortest prefix unique to them.

    `groups` are in order from input to output. A parameter that is used in several modules is listed under each name.
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
    """Scale the drop rates of all layers of a `kind` so that the highest is `rate`. Raises ModelError if it has none.

    Rates grow linearly from the first block to the last, as in both libraries. A `rate` of 0 turns drop path off, even
    where the library has another default.
    """
    layers = [module for module in net.modules() if isinstance(module, kind)]
    highest = max((float(getattr(layer, attribute)) for layer in layers), default=0.0)
    if rate > 0 and highest == 0:
        raise ModelError(f"model.drop_path is {rate}, and this backbone has no residual paths to drop; set it to 0")
    for layer in layers:
        setattr(layer, attribute, getattr(layer, attribute) * rate / highest if rate else 0.0)

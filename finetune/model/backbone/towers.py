"""Soft sharing: two copies of a backbone that run side by side, each with weights of its own.

The network's own forward takes each picture twice, interleaved: even rows are tower 0's, odd rows tower 1's. Its
modules are pairs, which give each tower its rows; the glue between modules works on rows and knows of no towers.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.backbone.memory_format import is_channels_last
from finetune.model.backbone.network import Network
from finetune.model.freezing.freeze import has_running_stats

STITCHES = {"plain": False, "cross_stitch": True}
OWN_WEIGHT, OTHER_WEIGHT = 0.9, 0.1  # shares that a cross-stitch unit starts with; the paper's range of best starts
PROBE_BATCH_SIZE = 2  # pictures or clips that a network is tried with


class CrossStitch(nn.Module):
    """Mixes what the towers give, channel by channel (arXiv:1604.03539).

    `change` is learnt on top of the start, so that weight decay draws to the start and not to nothing.
    """

    def __init__(self, width: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.change = nn.Parameter(torch.zeros(2, 2, width))

    def weights(self) -> Tensor:
        """(2, 2, C): of what tower i goes on with, the share that comes from tower j."""
        start = [[OWN_WEIGHT, OTHER_WEIGHT], [OTHER_WEIGHT, OWN_WEIGHT]]
        return self.change + self.change.new_tensor(start).unsqueeze(2)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        shape = [-1 if axis == self.axis else 1 for axis in range(first.ndim)]
        shares = [share.to(first.dtype).view(shape) for share in self.weights().flatten(0, 1)]
        return first * shares[0] + second * shares[1], first * shares[2] + second * shares[3]


class TowerPair(nn.Module):
    """A module of a network and its twin: even rows go through the one, odd rows through the other."""

    def __init__(self, module: nn.Module, twin: nn.Module, stitch: CrossStitch | None = None) -> None:
        super().__init__()
        self.towers = nn.ModuleList([module, twin])
        self.stitch = stitch

    def __getattr__(self, name: str) -> Any:
        """Plain facts of the module, as the grid of a patch embedding, which networks ask for; never a weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            towers = self.__dict__.get("_modules", {}).get("towers")
            value = None if towers is None else getattr(towers[0], name, None)
            if isinstance(value, bool | int | float | str | tuple):
                return value
            raise

    def forward(self, rows: Tensor, *rest: Any, **options: Any) -> Tensor:
        first, second = _split_rows(rows)
        # Tower 0 goes last, so that what keeps a layer's latest values, as for a feature map, has tower 0's.
        second = self.towers[1](second, *rest, **options)
        first = self.towers[0](first, *rest, **options)
        if self.stitch is not None:
            first, second = self.stitch(first, second)
        return _interleave(first, second)


def make_two_towers(network: Network, *, stitch: bool, size: int, num_frames: int) -> Network:
    """The network of two towers, made in place; both begin with the weights that it has.

    Modules within one stage become pairs, the outermost ones that its forward calls. Parameters that hang on the
    network itself or on a module around several stages (class tokens, positions) stay one for both. With `stitch`
    the towers are mixed behind each stage but the last. `size` and `num_frames` are those it was built for. Raises
    ModelError for a network whose modules hand on anything but one tensor with a row a picture.
    """
    net, stages = network.net, network.stage_of
    shape = (3, num_frames, size, size) if network.takes_clips else (3, size, size)
    pictures = torch.rand((PROBE_BATCH_SIZE, *shape), generator=torch.Generator().manual_seed(0))
    training = net.training
    plain, calls = _record_calls(net, pictures)
    net.train(training)  # some networks keep what they have computed in evaluation mode until they learn again
    parts = dict(_pairable_modules(net, stages, calls))
    for path, module in parts.items():
        if calls[module].problem:
            raise _towers_error(net, f"{path} {calls[module].problem}")
    stitched = _stage_ends(parts, stages, calls) if stitch else {}
    memo: dict[int, Any] = {}  # one for all: what two modules share, their twins share
    pairs: dict[nn.Module, TowerPair] = {}
    for path, module in parts.items():
        unit = CrossStitch(*calls[module].channels) if path in stitched else None
        pair = pairs.setdefault(module, TowerPair(module, deepcopy(module, memo), unit))
        parent, _, child = path.rpartition(".")
        setattr(net.get_submodule(parent), child, pair)
    _check_equivalence(net, pictures, plain)
    net.train(training)
    stage_of = {each: stage for name, stage in stages.items() for each in _tower_names(name, parts)}
    stage_of |= {f"{path}.stitch.change": stage for path, stage in stitched.items()}
    return replace(network, stage_of=stage_of, feature_map=partial(_tower_0_map, network.feature_map))


def tower_distance(net: nn.Module) -> Tensor:
    """The sum of the squared differences between the towers' weights that learn, 0-dim (Duong et al. 2015).

    What a cross-stitch unit or LoRA adds to a weight counts with it; what both towers share is no distance.
    """
    pairs = [module for module in net.modules() if isinstance(module, TowerPair)]
    both = [each for pair in pairs for each in zip(*map(_effective_weights, pair.towers), strict=True)]
    terms = [(one - other).square().sum() for one, other in both if one.requires_grad or other.requires_grad]
    return torch.stack(terms).sum() if terms else next(net.parameters()).new_zeros(())


@dataclass
class _PairableCall:
    """The latest call of a module: its place among all, the channels that it gives and their axis, what is wrong."""

    place: int
    channels: tuple[int, int] = (0, 0)
    problem: str = ""


@torch.no_grad()
def _record_calls(net: nn.Module, pictures: Tensor) -> tuple[Tensor, dict[nn.Module, _PairableCall]]:
    """What a network gives in evaluation mode, and the modules that it calls on the way."""
    calls: dict[nn.Module, _PairableCall] = {}
    places = count()

    def note(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        earlier = calls[module].problem if module in calls else ""
        problem = earlier or _pairing_problem([*inputs, *options.values()], output)
        calls[module] = _PairableCall(next(places), (0, 0) if problem else _channels(output), problem)

    watches = [module.register_forward_hook(note, with_kwargs=True) for module in net.modules()]
    try:
        return net.eval().forward(pictures), calls
    finally:
        for watch in watches:
            watch.remove()


def _pairing_problem(inputs: list[Any], output: Any) -> str:
    """Why a module with these inputs and this output cannot be one of a pair; empty where it can."""
    first, *rest = inputs or [None]
    for verb, value in (("takes", first), ("gives", output)):
        if not isinstance(value, Tensor):
            return f"{verb} {type(value).__name__}, not one tensor"
        if not value.ndim or len(value) != PROBE_BATCH_SIZE:
            return f"{verb} a tensor {tuple(value.shape)} for {PROBE_BATCH_SIZE} pictures, not a row for each"
    return "takes more than one tensor" if any(_holds_tensor(value) for value in rest) else ""


def _holds_tensor(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, Tensor) or any(_holds_tensor(part) for part in parts)


def _channels(output: Tensor) -> tuple[int, int]:
    """How many channels there are, and on which axis: the last of tokens (N, L, C) and of pictures (N, H, W, C)."""
    shape = output.shape
    # Pictures are square, so that two equal sides at the end come behind the channels.
    axis = 1 if len(shape) in {4, 5} and shape[-2] == shape[-1] else len(shape) - 1
    return shape[axis], axis


def _pairable_modules(
    module: nn.Module, stage_of: Mapping[str, str], calls: Mapping[nn.Module, _PairableCall], above: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules, by name, that are called, are wholly within one stage, and have something to learn."""
    for name, child in module.named_children():
        path = f"{above}{name}"
        within = {stage_of[f"{path}.{parameter}"] for parameter, _ in child.named_parameters()}
        if not within and not any(map(has_running_stats, child.modules())):
            continue
        if len(within) <= 1 and child in calls:
            yield path, child
        else:
            yield from _pairable_modules(child, stage_of, calls, f"{path}.")


def _stage_ends(
    parts: Mapping[str, nn.Module], stage_of: Mapping[str, str], calls: Mapping[nn.Module, _PairableCall]
) -> dict[str, str]:
    """Of each stage but the last, the part that is called last, with the stage."""
    order = sorted(parts, key=lambda path: calls[parts[path]].place)
    *stages, _ = dict.fromkeys(stage_of.values())
    last: dict[str, str] = {}
    for path in order:
        within = [stage_of[f"{path}.{name}"] for name, _ in parts[path].named_parameters()]
        last |= dict.fromkeys(within[:1], path)
    return {last[stage]: stage for stage in stages if stage in last}


def _tower_names(name: str, parts: Mapping[str, nn.Module]) -> list[str]:
    """What a parameter of the network is called in its towers."""
    path = next((path for path in parts if name.startswith(f"{path}.")), None)
    return [name] if path is None else [f"{path}.towers.{tower}{name.removeprefix(path)}" for tower in (0, 1)]


@torch.no_grad()
def _check_equivalence(net: nn.Module, pictures: Tensor, plain: Tensor) -> None:
    """Raise ModelError unless each tower, with equal weights, gives what the network gave."""
    try:
        towers = net.eval().forward(pictures.repeat_interleave(2, 0))
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _towers_error(net, " ".join(str(error).split())[:200] or type(error).__name__) from None
    whole, most = plain.repeat_interleave(2, 0), float(plain.abs().max())
    if whole.shape != towers.shape or not torch.allclose(whole, towers, rtol=1e-3, atol=1e-4 * most):
        raise _towers_error(net, "each gives something else than the network alone")


def _towers_error(net: nn.Module, reason: str) -> ModelError:
    return ModelError(
        f"two towers of a {type(net).__name__} cannot be run side by side: {reason}; share one backbone, or take one "
        "of the families ResNet, RegNet, MobileNet, EfficientNet, ConvNeXt and ViT"
    )


def _tower_0_map(feature_map: Callable[[nn.Module, Tensor], Tensor], net: nn.Module, rows: Tensor) -> Tensor:
    """Tower 0's, of a feature map of all rows or of its own alone."""
    maps = feature_map(net, rows)
    return maps[0::2] if len(maps) == len(rows) else maps


def _split_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Even rows and odd rows, copied, in the layout that they have; some modules write on what they get."""
    last = is_channels_last(rows)
    halves = (rows.movedim(1, -1) if last else rows).unflatten(0, (-1, 2)).unbind(1)
    first, second = (half.clone(memory_format=torch.contiguous_format) for half in halves)
    return (first.movedim(-1, 1), second.movedim(-1, 1)) if last else (first, second)


def _interleave(first: Tensor, second: Tensor) -> Tensor:
    if is_channels_last(first):
        return torch.stack([first.movedim(1, -1), second.movedim(1, -1)], 1).flatten(0, 1).movedim(-1, 1)
    return torch.stack([first, second], 1).flatten(0, 1)


def _effective_weights(tower: nn.Module) -> Iterator[Tensor]:
    """A tower's weights, those that LoRA stands beside with what it adds."""
    adapted = {name: module for name, module in tower.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in tower.named_parameters():
        if ".lora_" not in f".{name}":
            layer: Any = adapted.get(name.removesuffix(".base_layer.weight"))
            yield parameter if layer is None else parameter + layer.get_delta_weight(layer.active_adapters[0])

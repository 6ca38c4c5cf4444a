"""Two copies of a backbone ("towers") that run side by side, each with its own weights: plain, or with cross-stitch.

The network's own forward runs once on a batch that has every picture twice, interleaved: even rows belong to tower 0,
odd rows to tower 1. Its modules are replaced by pairs, which send each row to its tower. The code between modules
works on rows and does not know about towers. Only `Backbone` and `Sharing` know that there are two.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, reason_of
from finetune.model.backbone.memory_format import is_channels_last
from finetune.model.backbone.network import Network
from finetune.model.freezing.freeze import has_running_stats

OWN_WEIGHT, OTHER_WEIGHT = 0.9, 0.1  # initial weights of a cross-stitch unit, from the paper's best range
PROBE_BATCH_SIZE = 2  # pictures or clips in the trial pass


class CrossStitch(nn.Module):
    """Cross-stitch unit: each tower's output becomes a learned mix of both, per channel.

    Two tensors of one shape, with C channels on `axis`, to two of the same shape. The parameter `change` is added to
    the initial weights, so that weight decay pulls towards these and not towards 0. Source: arXiv:1604.03539.
    """

    def __init__(self, width: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.change = nn.Parameter(torch.zeros(2, 2, width))

    def weights(self) -> Tensor:
        """Mixing weights (2, 2, C): entry [i, j] is the weight of tower j's output in the new output of tower i."""
        start = [[OWN_WEIGHT, OTHER_WEIGHT], [OTHER_WEIGHT, OWN_WEIGHT]]
        return self.change + self.change.new_tensor(start).unsqueeze(2)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of both towers, of one shape with C channels on `axis`, to their mixes of the same shape."""
        shape = [-1 if axis == self.axis else 1 for axis in range(first.ndim)]
        shares = [share.to(first.dtype).view(shape) for share in self.weights().flatten(0, 1)]
        return first * shares[0] + second * shares[1], first * shares[2] + second * shares[3]


class TowerPair(nn.Module):
    """A module and its copy: even rows go through the module, odd rows through the copy.

    The output has the rows in the same order. `stitch`, if given, mixes the two outputs.
    """

    def __init__(self, module: nn.Module, twin: nn.Module, stitch: CrossStitch | None = None) -> None:
        super().__init__()
        self.towers = nn.ModuleList([module, twin])
        self.stitch = stitch

    def __getattr__(self, name: str) -> Any:
        """Plain attributes of the module that networks read, such as a patch embedding's grid size; never a weight."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            towers = self.__dict__.get("_modules", {}).get("towers")
            value = None if towers is None else getattr(towers[0], name, None)
            if isinstance(value, bool | int | float | str | tuple):
                return value
            raise

    def forward(self, rows: Tensor, *rest: Any, **options: Any) -> Tensor:
        """Rows (2 N, ...) of both towers, interleaved, to the outputs (2 N, ...) in the same order."""
        first, second = _split_rows(rows)
        # Tower 0 runs last: code that captures a layer's latest output, as for a feature map, then has tower 0's.
        second = self.towers[1](second, *rest, **options)
        first = self.towers[0](first, *rest, **options)
        if self.stitch is not None:
            first, second = self.stitch(first, second)
        return _interleave(first, second)


def make_two_towers(network: Network, *, stitch: bool, size: int, num_frames: int) -> Network:
    """Turn a network into two towers, in place; both start with its weights.

    The outermost modules that lie within one stage and are called in the forward pass become pairs. Parameters of the
    network itself, or of a module that spans several stages (class tokens, position embeddings), stay shared. With
    `stitch`, a cross-stitch unit follows each stage except the last. `size` and `num_frames` are those the network was
    built for. Raises ModelError if a module takes or returns anything but one tensor with one row per picture.
    """
    net, stages = network.net, network.stage_of
    shape = (3, num_frames, size, size) if network.takes_clips else (3, size, size)
    pictures = torch.rand((PROBE_BATCH_SIZE, *shape), generator=torch.Generator().manual_seed(0))
    training = net.training
    output, calls = _record_calls(net, pictures)
    net.train(training)  # some networks cache results in evaluation mode and drop them on a switch to training mode
    parts = dict(_pairable_modules(net, stages, calls))
    for path, module in parts.items():
        if calls[module].problem:
            raise _towers_error(net, f"{path} {calls[module].problem}")
    stitched = _stage_ends(parts, stages, calls) if stitch else {}
    memo: dict[int, Any] = {}  # one for all copies: what two modules share, their copies share too
    pairs: dict[nn.Module, TowerPair] = {}
    for path, module in parts.items():
        unit = CrossStitch(*calls[module].channels) if path in stitched else None
        pair = pairs.setdefault(module, TowerPair(module, deepcopy(module, memo), unit))
        parent, _, child = path.rpartition(".")
        setattr(net.get_submodule(parent), child, pair)
    _check_equivalence(net, pictures, output)
    net.train(training)
    stage_of = {tower_name: stage for name, stage in stages.items() for tower_name in _tower_names(name, parts)}
    stage_of |= {f"{path}.stitch.change": stage for path, stage in stitched.items()}
    return replace(network, stage_of=stage_of)


def tower_distance(net: nn.Module) -> Tensor:
    """Sum of squared differences between the trainable weights of both towers, 0-dim (Duong et al. 2015).

    Weights include what LoRA adds to them. Parameters that both towers share add nothing; without towers it is 0.
    """
    pairs = [module for module in net.modules() if isinstance(module, TowerPair)]
    weights = [both for pair in pairs for both in zip(*map(_effective_weights, pair.towers), strict=True)]
    terms = [(one - other).square().sum() for one, other in weights if one.requires_grad or other.requires_grad]
    return torch.stack(terms).sum() if terms else next(net.parameters()).new_zeros(())


@dataclass
class _PairableCall:
    """The latest call of a module.

    `place` is its position among all calls; `channels` are the number of output channels and their axis; `problem`
    says why the module cannot be paired, empty where it can.
    """

    place: int
    channels: tuple[int, int] = (0, 0)
    problem: str = ""


@torch.no_grad()
def _record_calls(net: nn.Module, pictures: Tensor) -> tuple[Tensor, dict[nn.Module, _PairableCall]]:
    """The network's output for pictures (N, ...) in evaluation mode, and the latest call of each of its modules."""
    calls: dict[nn.Module, _PairableCall] = {}
    places = count()

    def note(module: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        earlier = calls[module].problem if module in calls else ""
        problem = earlier or _pairing_problem([*inputs, *options.values()], output)
        calls[module] = _PairableCall(next(places), (0, 0) if problem else _channels(output), problem)

    handles = [module.register_forward_hook(note, with_kwargs=True) for module in net.modules()]
    try:
        return net.eval().forward(pictures), calls
    finally:
        for handle in handles:
            handle.remove()


def _pairing_problem(inputs: list[Any], output: Any) -> str:
    """Why a module with these inputs and this output cannot be paired; an empty string where it can."""
    first, *rest = inputs or [None]
    for verb, value in (("takes", first), ("returns", output)):
        if not isinstance(value, Tensor):
            return f"{verb} {type(value).__name__}, not one tensor"
        if not value.ndim or len(value) != PROBE_BATCH_SIZE:
            return f"{verb} a tensor {tuple(value.shape)} for {PROBE_BATCH_SIZE} pictures, not one row per picture"
    return "takes more than one tensor" if any(_holds_tensor(value) for value in rest) else ""


def _holds_tensor(value: Any) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return isinstance(value, Tensor) or any(_holds_tensor(part) for part in parts)


def _channels(output: Tensor) -> tuple[int, int]:
    """Number of channels and their axis: 1 in (N, C, H, W) and (N, C, T, H, W), else the last, as in (N, L, C)."""
    shape = output.shape
    # Pictures are square: if the last two axes are equal, they are height and width, and channels come first.
    axis = 1 if len(shape) in {4, 5} and shape[-2] == shape[-1] else len(shape) - 1
    return shape[axis], axis


def _pairable_modules(
    module: nn.Module, stage_of: Mapping[str, str], calls: Mapping[nn.Module, _PairableCall], above: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of the outermost modules that are called, lie within one stage, and have state to copy."""
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
    """{path: stage} of the module that is called last in each stage, except the last stage."""
    order = sorted(parts, key=lambda path: calls[parts[path]].place)
    *stages, _ = dict.fromkeys(stage_of.values())
    last: dict[str, str] = {}
    for path in order:
        within = [stage_of[f"{path}.{name}"] for name, _ in parts[path].named_parameters()]
        last |= dict.fromkeys(within[:1], path)
    return {last[stage]: stage for stage in stages if stage in last}


def _tower_names(name: str, parts: Mapping[str, nn.Module]) -> list[str]:
    """The names that a parameter of the network has in the towers; its own name if the towers share it."""
    path = next((path for path in parts if name.startswith(f"{path}.")), None)
    return [name] if path is None else [f"{path}.towers.{tower}{name.removeprefix(path)}" for tower in (0, 1)]


@torch.no_grad()
def _check_equivalence(net: nn.Module, pictures: Tensor, output: Tensor) -> None:
    """Raise ModelError unless each tower, with equal weights, gives the output of the single network."""
    try:
        tower_output = net.eval().forward(pictures.repeat_interleave(2, 0))
    except (AssertionError, AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise _towers_error(net, reason_of(error)) from None
    expected, largest = output.repeat_interleave(2, 0), float(output.abs().max())
    if expected.shape != tower_output.shape or not torch.allclose(
        expected, tower_output, rtol=1e-3, atol=1e-4 * largest
    ):
        raise _towers_error(net, "their output differs from that of the single network")


def _towers_error(net: nn.Module, reason: str) -> ModelError:
    return ModelError(
        f"a {type(net).__name__} cannot be split into two towers: {reason}; set multitask.sharing=hard, or take a "
        "backbone of the families ResNet, RegNet, MobileNet, EfficientNet, ConvNeXt and ViT"
    )


def _split_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Even rows and odd rows, copied because some modules work in place; the memory format is kept."""
    last = is_channels_last(rows)
    halves = (rows.movedim(1, -1) if last else rows).unflatten(0, (-1, 2)).unbind(1)
    first, second = (half.clone(memory_format=torch.contiguous_format) for half in halves)
    return (first.movedim(-1, 1), second.movedim(-1, 1)) if last else (first, second)


def _interleave(first: Tensor, second: Tensor) -> Tensor:
    if is_channels_last(first):
        return torch.stack([first.movedim(1, -1), second.movedim(1, -1)], 1).flatten(0, 1).movedim(-1, 1)
    return torch.stack([first, second], 1).flatten(0, 1)


def _effective_weights(tower: nn.Module) -> Iterator[Tensor]:
    """A tower's weights; where a layer has LoRA, with its update added."""
    adapted = {name: module for name, module in tower.named_modules() if hasattr(module, "get_delta_weight")}
    for name, parameter in tower.named_parameters():
        if ".lora_" not in f".{name}":
            layer: Any = adapted.get(name.removesuffix(".base_layer.weight"))
            yield parameter if layer is None else parameter + layer.get_delta_weight(layer.active_adapters[0])

"""Cut a model where its first learning stage begins: what comes before is computed once, the rest goes on from there.

What comes before is the network's own forward, stopped where the first module that learns is called; what enters it is
taken. The rest is the network's own forward too, on a batch of no pictures: frozen modules let nothing but shapes pass,
and where the first one that learns is called, what was taken goes in. So the glue between modules (class tokens,
positions, permutations) is the network's own. Both ways are compared when a cut is made.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.backbone.backbone import Backbone
from finetune.model.backbone.memory_format import is_channels_last
from finetune.model.freezing.freeze import StagedModel, trainable_stages
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.model.multitask.sharing import Sharing

FEATURES = "features"
Shape = tuple[int, ...]


class BackboneModel(StagedModel, Protocol):
    """A model that is cut into stages, and whose backbone takes clips of a known length and size."""

    backbone: Backbone
    sharing: Sharing | None
    size: int


@dataclass(frozen=True)
class Cut:
    """Where a model is cut: `features`, before temporal pooling, or before a module of the backbone's network.

    `item` is the shape of what is taken of one clip of `num_frames`, (T', D) or (n, ...) with n pictures a clip; of two
    towers (2, T', D), or twice as many pictures. With `channels_last` the network holds it so in memory, and channels
    come last in `item` too. `frozen_shapes` has, for the frozen modules before the cut, the shape that one picture has
    behind them. `dtype` is what the network computes it in. With `taps`, what tasks read of stages before the cut is
    taken too, of the shapes that one clip has there: `item` is one row of numbers then, what enters first, of the shape
    `entering`.
    """

    entry: str
    num_frames: int
    item: Shape
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    frozen_shapes: Mapping[str, Shape] = field(default_factory=dict)
    taps: Mapping[str, Shape] = field(default_factory=dict)
    entering: Shape = ()


def find_cut(model: BackboneModel, num_frames: int) -> Cut | None:
    """The cut before all that learns now, for clips of so many frames; None where nothing is frozen before it.

    Raises ModelError where the rest of the network cannot be run by itself, or gives something else then.
    """
    learning = [stage for stage in trainable_stages(model) if stage not in HEAD_STAGES]
    if len(model.backbone.merges):
        return None if "temporal" in trainable_stages(model) else cut_after_backbone(model, num_frames)
    if not learning:
        return cut_after_backbone(model, num_frames)
    prefix = "backbone.net."
    modules = {name.removeprefix(prefix) for stage in learning for name in model.stages[stage].modules}
    training = model.training
    model.train(False)  # nothing is drawn, and no statistics move
    try:
        cut = _trace_cut(model, modules, _black_clip(model, num_frames))
        if cut is not None:
            _check_cut(model, cut)
    finally:
        _clear_eval_caches(model)
        model.train(training)
    return cut if cut is None else _with_taps(model, cut)


def cut_after_backbone(model: BackboneModel, num_frames: int) -> Cut:
    """The cut behind the backbone, whatever learns."""
    features = forward_before_cut(model, _black_clip(model, num_frames), Cut(FEATURES, num_frames, ()))
    return _with_taps(model, Cut(FEATURES, num_frames, tuple(features.shape[1:])))


def _with_taps(model: BackboneModel, cut: Cut) -> Cut:
    """The cut that also takes what tasks read of stages before it."""
    if model.sharing is None or not model.sharing.tap_of:
        return cut
    taken = model.sharing.taps.taken
    taken.clear()
    forward_before_cut(model, _black_clip(model, cut.num_frames), cut)
    taps = {stage: tuple(value.shape) for stage, value in taken.items()}
    if not taps:  # tasks read stages behind the cut alone
        return cut
    return replace(cut, item=(sum(map(prod, (cut.item, *taps.values()))),), taps=taps, entering=cut.item)


def forward_before_cut(model: BackboneModel, clips_BTCHW: Tensor, cut: Cut) -> Tensor:
    """What enters at the cut, (B, *item) without a gradient; frozen modules have to be in evaluation mode."""
    with torch.no_grad():
        entering = _forward_to_entry(model, clips_BTCHW, cut)
        if not cut.taps:
            return entering
        assert model.sharing is not None
        taken = model.sharing.taps.taken
        rows = [entering, *(taken[stage].unflatten(0, (len(clips_BTCHW), -1)) for stage in cut.taps)]
        return torch.cat([row.flatten(1) for row in rows], 1)


def _forward_to_entry(model: BackboneModel, clips_BTCHW: Tensor, cut: Cut) -> Tensor:
    backbone = model.backbone
    if cut.entry == FEATURES:
        return _swap_tower_axis(backbone, backbone(clips_BTCHW))
    taken: list[Tensor] = []

    def take(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        taken.append(inputs[0])
        raise _CutReached

    with _forward_pre_hook(backbone.net.get_submodule(cut.entry), take), suppress(_CutReached):
        backbone.net.forward(backbone.pictures(clips_BTCHW))
    pictures = taken[0].movedim(1, -1) if cut.channels_last else taken[0]
    return pictures.unflatten(0, (len(clips_BTCHW), -1))


def forward_after_cut(model: BackboneModel, activations: Tensor, cut: Cut) -> Tensor:
    """The backbone's features (B, T', D), or (2, B, T', D), of what entered at the cut, (B, *item)."""
    activations = activations.to(cut.dtype)
    if cut.taps:
        return _forward_after_with_taps(model, activations, cut)
    if cut.entry == FEATURES:
        return _swap_tower_axis(model.backbone, activations)
    backbone, pictures = model.backbone, activations.flatten(0, 1)
    if cut.channels_last:
        pictures = pictures.contiguous().movedim(-1, 1)
    nothing = backbone.pictures(activations.new_zeros((0, cut.num_frames, 3, model.size, model.size)))

    def put(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (pictures, *inputs[1:])

    with (
        _skip_frozen(backbone.net, cut.frozen_shapes, nothing),
        _forward_pre_hook(backbone.net.get_submodule(cut.entry), put),
    ):
        return backbone.over_time(backbone.net.forward(nothing), len(activations))


def _forward_after_with_taps(model: BackboneModel, rows_BN: Tensor, cut: Cut) -> Tensor:
    assert model.sharing is not None
    sizes = [prod(cut.entering), *map(prod, cut.taps.values())]
    entering, *taken = rows_BN.split(sizes, 1)
    plain = replace(cut, item=cut.entering, taps={}, entering=())
    features = forward_after_cut(model, entering.unflatten(1, cut.entering), plain)
    for (stage, shape), values in zip(cut.taps.items(), taken, strict=True):
        model.sharing.taps.taken[stage] = values.reshape(-1, *shape[1:])
    return features


def _swap_tower_axis(backbone: Backbone, features: Tensor) -> Tensor:
    """Features of two towers (2, B, T', D) as (B, 2, T', D), or back."""
    return features if backbone.towers is None else features.transpose(0, 1)


class _CutReached(Exception):
    """The cut has been reached; what comes after it is not to be computed."""


@contextmanager
def _forward_pre_hook(module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...]], Any]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skip_frozen(net: nn.Module, frozen_shapes: Mapping[str, Shape], nothing: Tensor) -> Iterator[None]:
    """Within, frozen modules give a batch of nothing in the shape that they would give."""
    modules = [net.get_submodule(name) for name in frozen_shapes]
    for module, shape in zip(modules, frozen_shapes.values(), strict=True):
        module.__dict__["forward"] = lambda *_, shape=shape, **__: nothing.new_zeros((0, *shape))
    try:
        yield
    finally:
        for module in modules:
            del module.__dict__["forward"]


@dataclass
class _TracedCall:
    """One call of a module: what is handed to it, and the shape of what it gives, of tensors alone."""

    name: str
    takes: str
    enters: Shape | None
    is_first: bool
    channels_last: bool
    leaves: Shape | None = None


def _trace_cut(model: BackboneModel, learning: set[str], clips: Tensor) -> Cut | None:
    """The cut before the first of some modules to be called; None where none is, or nothing comes before it."""
    pictures = model.backbone.pictures(clips)
    calls = _trace_calls(model.backbone.net, pictures)
    place = next((place for place, call in enumerate(calls) if call.name in learning), None)
    if place is None or calls[place].is_first:
        return None
    at = calls[place]
    if at.enters is None or at.enters[0] % len(clips):
        raise ModelError(f"the network hands {at.takes} to {at.name}, and cannot be cut there")
    _, *rest = (at.enters[0], *at.enters[2:], at.enters[1]) if at.channels_last else at.enters
    item = (at.enters[0] // len(clips), *rest)
    frozen_shapes = _frozen_shapes(calls, place, len(pictures))
    return Cut(
        at.name, num_frames=clips.shape[1], item=item, channels_last=at.channels_last, frozen_shapes=frozen_shapes
    )


def _trace_calls(net: nn.Module, pictures: Tensor) -> list[_TracedCall]:
    """What a network calls, in the order of beginning; no activations are kept."""
    calls: list[_TracedCall] = []
    handles = []
    for name, module in net.named_modules():
        if not name:
            continue

        def began(module: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
            first = inputs[0] if inputs else None
            shape = tuple(first.shape) if isinstance(first, Tensor) and first.ndim else None
            last = isinstance(first, Tensor) and is_channels_last(first)
            calls.append(_TracedCall(name, type(first).__name__, shape, first is pictures, last))

        def ended(module: nn.Module, inputs: tuple[Any, ...], output: Any, name: str = name) -> None:
            last = next(call for call in reversed(calls) if call.name == name)
            last.leaves = tuple(output.shape) if isinstance(output, Tensor) and output.ndim else None

        handles += [module.register_forward_pre_hook(began), module.register_forward_hook(ended)]
    try:
        with torch.no_grad():
            net.forward(pictures)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _frozen_shapes(calls: list[_TracedCall], place: int, count: int) -> dict[str, Shape]:
    """Of the outermost modules that run once, before the cut, the shape behind them, less the number of pictures."""
    names, found = [call.name for call in calls], dict[str, Shape]()
    for call in calls[:place]:
        inside = any(call.name.startswith(f"{other}.") for other in found)
        around = f"{names[place]}.".startswith(f"{call.name}.")
        if names.count(call.name) == 1 and not inside and not around and call.leaves and call.leaves[0] == count:
            found[call.name] = call.leaves[1:]
    return found


def _check_cut(model: BackboneModel, cut: Cut) -> None:
    """Raise ModelError unless the whole and the cut network give the same, and the same gradients."""
    net, generator = model.backbone.net, torch.Generator().manual_seed(0)
    black = _black_clip(model, cut.num_frames)
    clips = torch.randint(0, 256, (2, *black.shape[1:]), dtype=torch.uint8, generator=generator).to(black.device)
    learning = {name: each for name, each in net.named_parameters() if each.requires_grad}
    try:
        with torch.enable_grad():
            _clear_eval_caches(model)
            whole = model.backbone.over_time(net.forward(model.backbone.pictures(clips)), len(clips))
            toward = torch.randn(whole.shape, generator=generator).to(whole)
            gradients = torch.autograd.grad(whole, [*learning.values()], toward, allow_unused=True)
            _clear_eval_caches(model)
            entering = torch.cat([forward_before_cut(model, clip, cut) for clip in clips.split(1)])
            parted = forward_after_cut(model, entering, cut)
            others = torch.autograd.grad(parted, [*learning.values()], toward, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"the network cannot be run from {cut.entry} on: {reason}") from None
    pairs = [("what it gives", whole, parted), *zip(learning, gradients, others, strict=True)]
    for name, one, other in pairs:
        same = one is other if one is None or other is None else _close(one, other)
        if not same:
            raise ModelError(f"the network gives something else when it is run from {cut.entry} on ({name})")


def _clear_eval_caches(model: BackboneModel) -> None:
    """Some networks keep what they have computed in evaluation mode until they learn again."""
    model.train(True)
    model.train(False)


@torch.no_grad()
def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def _black_clip(model: BackboneModel, num_frames: int) -> Tensor:
    shape = (1, num_frames, 3, model.size, model.size)
    return torch.zeros(shape, dtype=torch.uint8, device=model.backbone.mean.device)

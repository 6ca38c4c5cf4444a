"""Split a model before its first trainable stage, so that the output of the frozen prefix can be cached.

Both parts are the network's own forward pass, so that the code between modules (class tokens, position embeddings,
permutations) runs as it is written. The prefix stops where the first trainable module is called and takes the input
of that module. The rest runs on an empty batch: frozen modules only return tensors of the right shape with no rows,
and the first trainable module gets the stored activations as its input. Both ways are compared when a cut is made.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from finetune.errors import ModelError, reason_of
from finetune.model.backbone.backbone import Backbone
from finetune.model.backbone.memory_format import is_channels_last
from finetune.model.freezing.freeze import StagedModel, trainable_stages
from finetune.model.freezing.stages import HEAD_STAGES
from finetune.model.multitask.feature_taps import FeatureTaps

FEATURES = "features"
MAX_DIFFERENCE, MAX_ROUNDING_FACTOR = 1e-3, 10  # between a cut network and the uncut one, see `_check_cut`
Shape = tuple[int, ...]


class BackboneModel(StagedModel, Protocol):
    """A model with stages and a backbone, which takes clips of `size` pixels.

    `taps` holds what the latest pass computed at stages that tasks read before the backbone's end.
    """

    backbone: Backbone
    size: int

    @property
    def taps(self) -> FeatureTaps: ...


@dataclass(frozen=True)
class Cut:
    """Where a model is cut: before the module `entry` of the network, or with `features` after the backbone.

    `item` is the shape of one clip's activations at the cut, for clips of `num_frames`: (T', D) or (2, T', D) after
    the backbone, else (n, ...) with n rows per clip. With `channels_last` the network keeps them in this memory
    format, and channels are the last axis of `item`. `frozen_shapes` are the output shapes, for one row, of the frozen
    modules before the cut. `dtype` is the type that the network computes the activations in.

    Tasks may read stages before the cut. `taps` are then the shapes (rows, ...) of these stages' outputs for one clip,
    and `item` is (N,): the activations at the cut, of shape `entering`, followed by those outputs, all flattened.
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
    """The cut before everything that is trainable now, for clips of `num_frames`; None if nothing before it is frozen.

    Raises ModelError if the rest of the network cannot run by itself, or computes something else then.
    """
    trainable = [stage for stage in trainable_stages(model) if stage not in HEAD_STAGES]
    if len(model.backbone.merges):
        return None if "temporal" in trainable_stages(model) else cut_after_backbone(model, num_frames)
    if not trainable:
        return cut_after_backbone(model, num_frames)
    prefix = "backbone.net."
    modules = {name.removeprefix(prefix) for stage in trainable for name in model.stages[stage].modules}
    training = model.training
    model.train(False)  # no dropout, and running statistics stay as they are
    try:
        cut = _trace_cut(model, modules, _black_clip(model, num_frames))
        if cut is not None:
            _check_cut(model, cut)
    finally:
        _clear_eval_caches(model)
        model.train(training)
    return cut if cut is None else _with_taps(model, cut)


def cut_after_backbone(model: BackboneModel, num_frames: int) -> Cut:
    """The cut after the backbone, whichever stages are trainable."""
    features = forward_before_cut(model, _black_clip(model, num_frames), Cut(FEATURES, num_frames, ()))
    return _with_taps(model, Cut(FEATURES, num_frames, tuple(features.shape[1:])))


def _with_taps(model: BackboneModel, cut: Cut) -> Cut:
    """The cut, extended by the outputs of earlier stages that tasks read."""
    taken = model.taps.taken
    taken.clear()
    forward_before_cut(model, _black_clip(model, cut.num_frames), cut)
    taps = {stage: tuple(value.shape) for stage, value in taken.items()}
    if not taps:  # no task reads a stage before the cut
        return cut
    return replace(cut, item=(sum(map(prod, (cut.item, *taps.values()))),), taps=taps, entering=cut.item)


def forward_before_cut(model: BackboneModel, clips_BTCHW: Tensor, cut: Cut) -> Tensor:
    """Activations at the cut, (B, *item), without gradient. Frozen modules have to be in evaluation mode."""
    with torch.no_grad():
        entering = _forward_to_entry(model, clips_BTCHW, cut)
        if not cut.taps:
            return entering
        taken = model.taps.taken
        rows = [entering, *(taken[stage].unflatten(0, (len(clips_BTCHW), -1)) for stage in cut.taps)]
        return torch.cat([row.flatten(1) for row in rows], 1)


def _forward_to_entry(model: BackboneModel, clips_BTCHW: Tensor, cut: Cut) -> Tensor:
    backbone = model.backbone
    if cut.entry == FEATURES:
        features: Tensor = backbone(clips_BTCHW)
        return features
    taken: list[Tensor] = []

    def take(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        taken.append(inputs[0])
        raise _CutReached

    with _forward_pre_hook(backbone.net.get_submodule(cut.entry), take), suppress(_CutReached):
        backbone.net.forward(backbone.pictures(clips_BTCHW))
    pictures = taken[0].movedim(1, -1) if cut.channels_last else taken[0]
    return pictures.unflatten(0, (len(clips_BTCHW), -1))


def forward_after_cut(model: BackboneModel, activations: Tensor, cut: Cut) -> Tensor:
    """The backbone's features, (B, T', D) or (B, 2, T', D), from activations at the cut, (B, *item)."""
    activations = activations.to(cut.dtype)
    if cut.taps:
        return _forward_after_with_taps(model, activations, cut)
    if cut.entry == FEATURES:
        return activations
    backbone, pictures = model.backbone, activations.flatten(0, 1)
    if cut.channels_last:
        pictures = pictures.contiguous().movedim(-1, 1)
    no_pictures = backbone.pictures(activations.new_zeros((0, cut.num_frames, 3, model.size, model.size)))

    def put(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (pictures, *inputs[1:])

    with (
        _skip_frozen(backbone.net, cut.frozen_shapes, no_pictures),
        _forward_pre_hook(backbone.net.get_submodule(cut.entry), put),
    ):
        return backbone.over_time(backbone.net.forward(no_pictures), len(activations))


def _forward_after_with_taps(model: BackboneModel, rows_BN: Tensor, cut: Cut) -> Tensor:
    sizes = [prod(cut.entering), *map(prod, cut.taps.values())]
    entering, *taken = rows_BN.split(sizes, 1)
    plain = replace(cut, item=cut.entering, taps={}, entering=())
    features = forward_after_cut(model, entering.unflatten(1, cut.entering), plain)
    for (stage, shape), values in zip(cut.taps.items(), taken, strict=True):
        model.taps.taken[stage] = values.reshape(-1, *shape[1:])
    return features


class _CutReached(Exception):
    """Ends the forward pass at the cut."""


@contextmanager
def _forward_pre_hook(module: nn.Module, hook: Callable[[nn.Module, tuple[Any, ...]], Any]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skip_frozen(net: nn.Module, frozen_shapes: Mapping[str, Shape], no_pictures: Tensor) -> Iterator[None]:
    """Within the context, frozen modules return an empty batch of their output shape and compute nothing."""
    modules = [net.get_submodule(name) for name in frozen_shapes]
    for module, shape in zip(modules, frozen_shapes.values(), strict=True):
        module.__dict__["forward"] = lambda *_, shape=shape, **__: no_pictures.new_zeros((0, *shape))
    try:
        yield
    finally:
        for module in modules:
            del module.__dict__["forward"]


@dataclass
class _TracedCall:
    """One call of a module: type, shape and memory format of its first input, and the shape of its output.

    Shapes are None for anything but a tensor. `is_input` says whether the first input is that of the network.
    """

    name: str
    input_type: str
    input_shape: Shape | None
    is_input: bool
    channels_last: bool
    output_shape: Shape | None = None


def _trace_cut(model: BackboneModel, trainable: set[str], clips: Tensor) -> Cut | None:
    """The cut before the first trainable module that is called; None if there is none or nothing comes before it."""
    pictures = model.backbone.pictures(clips)
    calls = _trace_calls(model.backbone.net, pictures)
    position = next((position for position, call in enumerate(calls) if call.name in trainable), None)
    if position is None or calls[position].is_input:
        return None
    entry = calls[position]
    if entry.input_shape is None or entry.input_shape[0] % len(clips):
        raise ModelError(f"the network passes a {entry.input_type} to {entry.name} and cannot be cut there")
    rows, *rest = entry.input_shape
    return Cut(
        entry.name,
        num_frames=clips.shape[1],
        item=(rows // len(clips), *((*rest[1:], rest[0]) if entry.channels_last else rest)),
        channels_last=entry.channels_last,
        frozen_shapes=_frozen_shapes(calls, position, len(pictures)),
    )


def _trace_calls(net: nn.Module, pictures: Tensor) -> list[_TracedCall]:
    """The calls of a network's modules, in the order in which they begin; no activations are kept."""
    calls: list[_TracedCall] = []
    handles = []
    for name, module in net.named_modules():
        if not name:
            continue

        def begin(module: nn.Module, inputs: tuple[Any, ...], name: str = name) -> None:
            first = inputs[0] if inputs else None
            shape = tuple(first.shape) if isinstance(first, Tensor) and first.ndim else None
            channels_last = isinstance(first, Tensor) and is_channels_last(first)
            calls.append(_TracedCall(name, type(first).__name__, shape, first is pictures, channels_last))

        def ended(module: nn.Module, inputs: tuple[Any, ...], output: Any, name: str = name) -> None:
            latest = next(call for call in reversed(calls) if call.name == name)
            latest.output_shape = tuple(output.shape) if isinstance(output, Tensor) and output.ndim else None

        handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(ended)]
    try:
        with torch.no_grad():
            net.forward(pictures)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _frozen_shapes(calls: list[_TracedCall], position: int, rows: int) -> dict[str, Shape]:
    """Output shapes, without the axis of `rows`, of the outermost modules that are called once, before the cut."""
    names, shapes = [call.name for call in calls], dict[str, Shape]()
    for call in calls[:position]:
        inside = any(call.name.startswith(f"{other}.") for other in shapes)
        around = f"{names[position]}.".startswith(f"{call.name}.")
        once = names.count(call.name) == 1
        if once and not inside and not around and call.output_shape and call.output_shape[0] == rows:
            shapes[call.name] = call.output_shape[1:]
    return shapes


def _check_cut(model: BackboneModel, cut: Cut) -> None:
    """Raise ModelError unless the cut network gives the same output and the same gradients as the uncut one.

    They differ by rounding, as the frozen part computes each clip alone. So do two passes of the uncut network, one
    over both clips and one over each alone: the cut may differ a few times as much, or by MAX_DIFFERENCE, in norm.
    """
    generator = torch.Generator().manual_seed(0)
    black = _black_clip(model, cut.num_frames)
    clips = torch.randint(0, 256, (2, *black.shape[1:]), dtype=torch.uint8, generator=generator).to(black.device)
    trainable = {name: value for name, value in model.backbone.net.named_parameters() if value.requires_grad}

    def whole(part: Tensor) -> Tensor:
        return model.backbone.over_time(model.backbone.net.forward(model.backbone.pictures(part)), len(part))

    def from_cut() -> Tensor:
        entering = torch.cat([forward_before_cut(model, clip, cut) for clip in clips.split(1)])
        return forward_after_cut(model, entering, cut)

    passes: list[Callable[[], Tensor]] = [
        lambda: whole(clips),
        lambda: torch.cat([whole(clip) for clip in clips.split(1)]),
        from_cut,
    ]
    try:
        uncut, clip_by_clip, resumed = (_output_and_gradients(model, run, trainable, seed=1) for run in passes)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise ModelError(f"the network cannot be run from {cut.entry} onwards: {reason_of(error)}") from None
    for name, expected in uncut.items():
        rounding = _relative_difference(expected, clip_by_clip[name])
        difference = _relative_difference(expected, resumed[name])
        if not difference <= max(MAX_DIFFERENCE, MAX_ROUNDING_FACTOR * rounding):
            raise ModelError(
                f"the network computes something else when it is run from {cut.entry} onwards: "
                f"{name} differs by {100 * difference:.2g} %"
            )


def _output_and_gradients(
    model: BackboneModel, run: Callable[[], Tensor], trainable: Mapping[str, nn.Parameter], *, seed: int
) -> dict[str, Tensor | None]:
    """The output of a pass, and the gradients of its product with a fixed random direction."""
    _clear_eval_caches(model)
    with torch.enable_grad():
        output = run()
        direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
        gradients = torch.autograd.grad(output, [*trainable.values()], direction, allow_unused=True)
    names = [f"the gradient of {name}" for name in trainable]
    return {"its output": output.detach(), **dict(zip(names, gradients, strict=True))}


@torch.no_grad()
def _relative_difference(expected: Tensor | None, actual: Tensor | None) -> float:
    """The norm of the difference ÷ that of `expected`; infinite where one is missing or has another shape."""
    if expected is None or actual is None or expected.shape != actual.shape:
        return 0.0 if expected is actual else math.inf
    norm, difference = float(expected.float().norm()), float((expected.float() - actual.float()).norm())
    return difference / norm if norm else math.inf if difference else 0.0


def _clear_eval_caches(model: BackboneModel) -> None:
    """Switch to training mode and back: some networks cache results in evaluation mode until then."""
    model.train(True)
    model.train(False)


def _black_clip(model: BackboneModel, num_frames: int) -> Tensor:
    shape = (1, num_frames, 3, model.size, model.size)
    return torch.zeros(shape, dtype=torch.uint8, device=model.backbone.mean.device)

"""Activation checkpointing of trainable stages: the backward pass recomputes activations instead of storing them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from finetune.model.backbone.frame_fusion import FrameCount
from finetune.model.freezing.freeze import StagedModel, trainable_stages


def trainable_blocks(model: StagedModel) -> list[nn.Module]:
    """The outermost modules with children in trainable stages of the backbone; single layers would save nothing."""
    inside_stages = {
        name
        for stage in trainable_stages(model)
        for name in model.stages[stage].modules
        if name.startswith("backbone.net.")
    }
    blocks: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        has_forward = type(module).forward is not nn.Module.forward  # nn.ModuleList has none
        inside = any(name.startswith(f"{block}.") for block in blocks)
        has_parameters = bool(list(module.parameters()))
        if name in inside_stages and has_forward and has_parameters and not inside and list(module.children()):
            blocks[name] = module
    return list(blocks.values())


@contextmanager
def checkpoint_blocks(blocks: Sequence[nn.Module], frames: FrameCount) -> Iterator[None]:
    """Within the context, blocks store only their inputs for the backward pass and run again in it.

    The modules are unchanged afterwards, so that copies and parameter names are not affected.
    """
    for block in blocks:
        block.__dict__["forward"] = partial(_checkpointed_forward, block, block.forward, frames)
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def _checkpointed_forward(
    block: nn.Module, forward: Callable[..., Any], frames: FrameCount, *inputs: Any, **options: Any
) -> Any:
    def contexts() -> tuple[AbstractContextManager[None], _ReentrantContext]:
        return nullcontext(), _ReentrantContext(partial(_preserve_buffers, block, frames, frames.count))

    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


class _ReentrantContext(ExitStack):
    """A context that may be entered several times, as when gradients are computed more than once."""

    def __init__(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self.context = context

    def __enter__(self) -> "_ReentrantContext":
        self.enter_context(self.context())
        return super().__enter__()


@contextmanager
def _preserve_buffers(block: nn.Module, frames: FrameCount, count: int) -> Iterator[None]:
    """Make a second run of a block leave no trace: it updates copies of buffers, and uses T of the first run."""
    originals = [(module, dict(module._buffers)) for module in block.modules() if module._buffers]
    now, frames.count = frames.count, count
    for module, buffers in originals:
        module._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        frames.count = now
        for module, buffers in originals:
            module._buffers.update(buffers)

"""Gradient checkpointing by stage: activations are not kept for the backward pass, but computed again in it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from finetune.model.backbone.frame_fusion import FrameCount
from finetune.model.freezing.freeze import StagedModel, trainable_stages


def trainable_blocks(model: StagedModel) -> list[nn.Module]:
    """The outermost modules of the backbone's learning stages that hold others; a layer keeps its input anyway."""
    learning = trainable_stages(model)
    whole = {name for stage in learning for name in model.stages[stage].modules if name.startswith("backbone.net.")}
    blocks: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        is_run = type(module).forward is not nn.Module.forward  # a list of modules is not
        inside = any(name.startswith(f"{block}.") for block in blocks)
        learns = bool(list(module.parameters()))
        if name in whole and is_run and learns and not inside and list(module.children()):
            blocks[name] = module
    return list(blocks.values())


@contextmanager
def checkpoint_blocks(blocks: Sequence[nn.Module], frames: FrameCount) -> Iterator[None]:
    """Within, each of the blocks keeps its inputs alone for the backward pass, and is computed again there.

    Nothing stays changed in the modules, so that copies and names of weights know nothing of it.
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
    """A context that may be entered several times: where gradients are asked for more than once."""

    def __init__(self, context: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self.context = context

    def __enter__(self) -> "_ReentrantContext":
        self.enter_context(self.context())
        return super().__enter__()


@contextmanager
def _preserve_buffers(block: nn.Module, frames: FrameCount, count: int) -> Iterator[None]:
    """Let a block be run again without a trace: running statistics move in a copy, T is that of the first run."""
    kept = [(module, dict(module._buffers)) for module in block.modules() if module._buffers]
    now, frames.count = frames.count, count
    for module, buffers in kept:
        module._buffers.update({name: None if value is None else value.clone() for name, value in buffers.items()})
    try:
        yield
    finally:
        frames.count = now
        for module, buffers in kept:
            module._buffers.update(buffers)

"""What processes that train together settle between them; with one process there is nothing to settle."""

import math

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from finetune.data.labels import TargetLayout
from finetune.errors import RunError
from finetune.model.backbone.timm_networks import to_sync_batch_norm
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Train
from finetune.train.log.epoch_metrics import Tally
from finetune.train.state.signals import StopRequested, StopSignalHandler


def refuse_sharding(accelerator: Accelerator) -> None:
    """Raise RunError where the launcher asks for more than a copy of the model in each process."""
    kind = accelerator.distributed_type
    if kind in {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}:
        raise RunError(
            f"the launcher asks for {kind.value}, which shards the model; each process here holds all of it: launch "
            "without, and where memory is short set train.activation_checkpointing=true or a smaller train.batch_size"
        )


def with_sync_batch_norm(model: VideoClassifier, accelerator: Accelerator) -> VideoClassifier:
    """The model with batch norm over the clips of all GPUs; as it was where there is but one process or no GPU."""
    if accelerator.num_processes == 1 or accelerator.device.type == "cpu":
        return model
    return to_sync_batch_norm(model)


def stop_if_asked(stopping: StopSignalHandler, accelerator: Accelerator) -> None:
    """Raise Stopped in all processes once a signal has come to any of them."""
    if accelerator.num_processes > 1:
        if stopping.asked:
            accelerator.set_trigger()
        if accelerator.check_trigger():
            raise StopRequested
        return
    stopping.check()


def rank_loss_weight(clips: int, accelerator: Accelerator) -> float | None:
    """Gradients of processes are averaged: the weight that makes of it the mean over clips; None without any clip."""
    if accelerator.num_processes == 1:
        return 1.0 if clips else None
    total = int(accelerator.reduce(torch.tensor(clips, device=accelerator.device), reduction="sum"))
    return clips * accelerator.num_processes / total if total else None


def dummy_batch(model: VideoClassifier) -> dict[str, Tensor]:
    """A black clip with weight zero, for a process whose share of a batch is empty: it must take part in the step."""
    shape = (1, 1, model.num_frames, 3, model.size, model.size)
    label = torch.zeros(1, dtype=torch.long)
    if model.multitask_spec is not None:
        label = torch.zeros((1, TargetLayout(model.outputs).width))
    elif model.multilabel:
        label = torch.zeros((1, len(model.classes)), dtype=torch.bool)
    return {"clips": torch.zeros(shape, dtype=torch.uint8), "label": label}


def all_reduce_tally(tally: Tally, accelerator: Accelerator) -> None:
    """Let an epoch's figures be those of all processes' clips; seconds stay this one's."""
    if accelerator.num_processes > 1:
        own = [tally.clips, tally.right, tally.total_loss, tally.judged]
        sums = accelerator.reduce(torch.tensor(own, dtype=torch.float32, device=accelerator.device), reduction="sum")
        tally.clips, tally.right, tally.total_loss = int(sums[0]), int(sums[1]), float(sums[2])
        tally.judged = int(sums[3])


def all_reduce_sum(values: Tensor, *, accelerator: Accelerator) -> Tensor:
    """Of numbers on the CPU, over all processes."""
    if accelerator.num_processes == 1:
        return values
    return accelerator.reduce(values.to(accelerator.device), reduction="sum").cpu()


def gradient_is_finite(loss: float, prepared: nn.Module, train: Train, accelerator: Accelerator) -> bool:
    """Clip the gradient, and say whether it is finite; where it is not measured, whether the loss is.

    All processes say the same. With fp16 an infinite gradient is the scaler's affair.
    """
    if train.clip_grad is None and not train.max_nan_steps:
        return math.isfinite(loss)
    norm = accelerator.clip_grad_norm_(prepared.parameters(), train.clip_grad or math.inf)
    if accelerator.scaler is None:
        return math.isfinite(float(norm))
    finite = torch.tensor(float(math.isfinite(loss)), device=accelerator.device)
    return int(accelerator.reduce(finite, reduction="sum")) == accelerator.num_processes

"""Training with several processes: launchers that are refused, and synchronised batch norm."""

from accelerate import Accelerator
from accelerate.utils import DistributedType

from finetune.errors import RunError
from finetune.model.backbone.timm_networks import to_sync_batch_norm
from finetune.model.classifier import VideoClassifier


def refuse_sharding(accelerator: Accelerator) -> None:
    """Raise RunError where the launcher would shard the model over processes."""
    kind = accelerator.distributed_type
    if kind in {DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM}:
        raise RunError(
            f"the launcher asks for {kind.value}, which shards the model, but each process needs all of it: launch "
            "without it; to save memory set train.activation_checkpointing=true or a smaller train.batch_size"
        )


def with_sync_batch_norm(model: VideoClassifier, accelerator: Accelerator) -> VideoClassifier:
    """The model with batch norm over the clips of all GPUs; unchanged with one process or without a GPU."""
    if accelerator.num_processes == 1 or accelerator.device.type == "cpu":
        return model
    return to_sync_batch_norm(model)

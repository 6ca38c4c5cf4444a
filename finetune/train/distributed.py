"""What training with several processes asks of the launcher and of the model."""

from accelerate import Accelerator
from accelerate.utils import DistributedType

from finetune.errors import RunError
from finetune.model.backbone.timm_networks import to_sync_batch_norm
from finetune.model.classifier import VideoClassifier


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

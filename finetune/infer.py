"""Where and how precisely a model runs, and the probabilities it gives: the same for evaluation and prediction."""

import torch
from accelerate import PartialState
from torch import Tensor, nn

from finetune.model.model import TASK

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def settle_precision(setting: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; `auto` is bf16 where the device multiplies it in hardware, else fp32."""
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    has_bf16 = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bf16" if has_bf16 else "fp32"


def settle_device(setting: str) -> torch.device:
    """The device of this process: the CPU by name, or what Accelerate finds."""
    return torch.device("cpu") if setting == "cpu" else PartialState().device


@torch.inference_mode()
def probabilities(model: nn.Module, clips_VTCHW: Tensor, *, precision: str) -> Tensor:
    """Class probabilities (K,) of one video in float32, its views averaged; the model has to be in evaluation mode.

    A video is computed alone and view by view: what it gets depends on no other video, so evaluating a set and
    predicting one file give the very same numbers, and memory does not grow with the views.
    """
    device = next(model.parameters()).device
    views = []
    for clip_TCHW in clips_VTCHW:
        with torch.autocast(device.type, DTYPES.get(precision), enabled=precision in DTYPES):
            logits = model(clip_TCHW.unsqueeze(0).to(device))[TASK]
        views.append(logits[0].float().softmax(0))
    return torch.stack(views).mean(0).cpu()

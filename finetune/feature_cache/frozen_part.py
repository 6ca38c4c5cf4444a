"""The frozen part of a model in a phase: its activations, and the key under which they are cached."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from finetune.feature_cache.shard_store import DTYPES
from finetune.model.classifier import VideoClassifier
from finetune.model.freezing.freeze import trainable_stages
from finetune.model.frozen_prefix import FEATURES, Cut, cut_after_backbone, find_cut, forward_before_cut
from finetune.run.environment import package_versions
from finetune.runtime.device import autocast
from finetune.runtime.threads import limit_threads, map_in_threads

FORWARD_BATCH_SIZE = 8  # clips computed together on a GPU
PACKAGES = ("torch", "torchvision", "timm", "av", "opencv-python-headless", "numpy")


@dataclass(frozen=True)
class FrozenPart:
    """The part before a cut; `precision` is that of the computation, `storage_dtype` that of the cached activations."""

    cut: Cut
    precision: str
    storage_dtype: str


def frozen_part(
    model: VideoClassifier, num_frames: int, *, precision: str, storage_dtype: str = "auto"
) -> FrozenPart | None:
    """The frozen part of a model with its current trainable stages; None where it has none.

    With the storage dtype `auto`, 16-bit activations are stored as they are, and others as fp16. Raises ModelError
    where the network cannot be cut.
    """
    cut = find_cut(model, num_frames)
    return None if cut is None else _resolve_dtypes(model, cut, precision, storage_dtype)


def feature_part(model: VideoClassifier, num_frames: int, *, precision: str, storage_dtype: str = "auto") -> FrozenPart:
    """The whole backbone as a frozen part, whichever stages are trainable now."""
    return _resolve_dtypes(model, cut_after_backbone(model, num_frames), precision, storage_dtype)


def _resolve_dtypes(model: VideoClassifier, cut: Cut, precision: str, storage_dtype: str) -> FrozenPart:
    device = model.backbone.mean.device
    black = torch.zeros((1, cut.num_frames, 3, model.size, model.size), dtype=torch.uint8, device=device)
    with autocast(precision, device):
        computed = forward_before_cut(model, black, cut).dtype
    names = {dtype: name for name, dtype in DTYPES.items()}
    half = names[computed] if computed.itemsize == 2 else "fp16"
    return FrozenPart(replace(cut, dtype=computed), precision, half if storage_dtype == "auto" else storage_dtype)


def cut_activations(model: VideoClassifier, clips_BTCHW: Tensor, frozen: FrozenPart) -> Tensor:
    """The activations at the cut, (B, *item) in the storage dtype, of clips uint8 (B, T, C, H, W).

    On a CPU each clip is computed alone, so that its activations do not depend on the rest of the batch, and for a
    small network each in its own thread. On a GPU a few are computed together. Values too large for the storage dtype
    are clamped to its range.
    """
    device = model.backbone.mean.device

    def compute(part_BTCHW: Tensor) -> Tensor:
        with autocast(frozen.precision, device):
            return _to_dtype(forward_before_cut(model, part_BTCHW.to(device), frozen.cut), DTYPES[frozen.storage_dtype])

    parts = clips_BTCHW.split(1 if device.type == "cpu" else FORWARD_BATCH_SIZE)
    # A cut inside the network uses a hook, which two threads must not share.
    if model.runs_in_threads and frozen.cut.entry == FEATURES:
        return torch.cat(map_in_threads(compute, parts))
    with limit_threads(small=model.fits_one_thread):
        return torch.cat([compute(part) for part in parts])


def _to_dtype(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    if torch.finfo(dtype).max >= torch.finfo(numbers.dtype).max:
        return numbers.to(dtype)
    most = torch.finfo(dtype).max
    return numbers.clamp(-most, most).to(dtype)


def rounding_error(model: VideoClassifier, clips_BTCHW: Tensor, frozen: FrozenPart) -> float:
    """The relative rounding error of the storage dtype on clips uint8 (B, T, C, H, W): |stored - exact| / |exact|."""
    exact = cut_activations(model, clips_BTCHW, replace(frozen, storage_dtype="fp32")).double()
    stored = cut_activations(model, clips_BTCHW, frozen).double()
    return float((stored - exact).norm() / exact.norm().clamp_min(1e-30))


def cache_key(model: VideoClassifier, frozen: FrozenPart) -> dict[str, Any]:
    """All that cached activations depend on apart from the clips: weights, architecture, cut, precision, versions."""
    device = model.backbone.mean.device
    capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else torch.cuda.get_device_name(device)
    settings = model.settings.model_dump(include={"backbone", "fusion"})
    return {
        **settings,
        **({"taps": sorted(frozen.cut.taps)} if frozen.cut.taps else {}),
        "size": model.size,
        "entry": frozen.cut.entry,
        "weights": hash_tensors(_frozen_tensors(model, frozen)),
        "precision": frozen.precision,
        "compiled": frozen.cut.entry == FEATURES and model.backbone.net._compiled_call_impl is not None,
        "device": f"{device.type} {capability} {platform.machine()}",
        "versions": package_versions(PACKAGES),
    }


def _frozen_tensors(model: VideoClassifier, frozen: FrozenPart) -> dict[str, Tensor]:
    """Parameters and buffers of the frozen stages of the backbone, or of all stages at the cut after the backbone."""
    trainable = () if frozen.cut.entry == FEATURES else trainable_stages(model)
    names = {
        name
        for stage, part in model.stages.items()
        if stage not in trainable
        for name in (*part.parameters, *part.buffers)
    }
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: value for name, value in tensors.items() if name in names and name.startswith("backbone.")}


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """A SHA-256 of the names, shapes, dtypes and bits of tensors."""
    digest = sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

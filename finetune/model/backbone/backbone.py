"""Pretrained backbones of timm and torchvision behind one interface: uint8 clips in, features over time out."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import ModelError
from finetune.model.backbone.fetch_weights import find_weights
from finetune.model.backbone.frame_fusion import FUSIONS, PICTURES, STACKED_FRAMES, FrameCount
from finetune.model.backbone.known_names import check_name
from finetune.model.backbone.load_weights import load_weights, read_weights
from finetune.model.backbone.network import Network
from finetune.model.backbone.timm_networks import timm_network
from finetune.model.backbone.torchvision_networks import torchvision_network
from finetune.model.backbone.towers import make_two_towers, tower_distance
from finetune.model.backbone.weights_source import WeightsSource, file_source, find_source
from finetune.model.own_modules import own_network
from finetune.recipe.own_parts import is_own


class Backbone(nn.Module):
    """Normalises uint8 clips (B, T, C, H, W) and computes features (B, T', D); D is `width`.

    With `sharing` `towers` or `cross_stitch` the network is copied, `num_towers` is 2, and features are
    (B, 2, T', D). `spec` describes the pretraining input; `stage_of` names the stage of each parameter of `net`, in
    order from input to output. An image backbone processes each frame alone unless `fusion` mixes frames;
    `merges` holds the parameters that slow fusion adds. `weights_source` says where the weights came from.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, *, num_frames: int, fusion: str, size: int, sharing: str = "hard") -> None:
        super().__init__()
        if fusion != "late" and sharing != "hard":
            raise ModelError(
                f"model.fusion {fusion!r} does not work with multitask.sharing {sharing!r}; set it to late"
            )
        if fusion != "late" and network.takes_clips:
            raise ModelError(f"model.fusion {fusion!r}: a video backbone mixes frames itself; set model.fusion to late")
        if sharing != "hard":
            stitch = sharing == "cross_stitch"
            network = make_two_towers(network, stitch=stitch, size=size, num_frames=num_frames)
        self.num_towers = 1 if sharing == "hard" else 2
        self.frames = FrameCount(num_frames)
        stages = list(dict.fromkeys(network.stage_of.values()))
        self.merges: nn.ModuleList = FUSIONS[fusion](network.net, self.frames, stages, size)
        # Convolutions are fastest in channels-last memory format, on CPUs and GPUs alike.
        self.layout = torch.channels_last_3d if network.takes_clips else torch.channels_last
        self.net = network.net.to(memory_format=self.layout)
        self.size = size
        self.num_streams = 2 if fusion == "two_stream" else 1
        self.width = network.width * self.num_streams
        self.spec, self.stage_of = network.spec, network.stage_of
        self.weights_source: WeightsSource = {"source": "none"}
        self.takes_clips = network.takes_clips
        self.stacks_frames = fusion == "early"
        self._to_pictures = PICTURES.get(fusion)
        self.fixed_frames = num_frames if network.fixed_frames or self.stacks_frames else None
        one_step = network.time_stride is None or self.stacks_frames
        picture_stride = STACKED_FRAMES if self._to_pictures else network.time_stride or 1
        self.time_stride = None if one_step else picture_stride * 2 ** len(self.merges)
        self._feature_map = network.feature_map
        for name, values in (("mean", self.spec.mean), ("std", self.spec.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 1, 3, 1, 1) * 255, persistent=False)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Clips uint8 (B, T, C, H, W) to features (B, T', D), or (B, 2, T', D) of two towers."""
        return self.over_time(self.net(self.pictures(clips_BTCHW)), clips_BTCHW.shape[0])

    def over_time(self, vectors: Tensor, clips: int) -> Tensor:
        """The network's output rows, (B T', D) or (B, D T') of a video network, as (B, T', D) or (B, 2, T', D)."""
        if self.takes_clips:
            vectors = vectors.unflatten(1, (self.width, -1)).transpose(1, 2)
            return vectors if self.num_towers == 1 else vectors.unflatten(0, (clips, 2))
        vectors = vectors.unflatten(0, (clips, -1))
        if self.num_streams == 2:
            vectors = vectors.unflatten(1, (-1, 2)).flatten(2)
        return vectors if self.num_towers == 1 else vectors.unflatten(1, (-1, 2)).movedim(2, 1)

    def feature_map(self, clips_BTCHW: Tensor) -> Tensor:
        """Features before spatial pooling: (B, T', C, h, w), or tokens (B, T', N, C), class tokens first.

        C is not always `width`: some networks have a layer after the pooling. With two towers it is tower 0's map, with
        two streams that of the pictures in colour.
        Raises ModelError for the few networks that have no single feature map.
        """
        features = self.first_tower(self._feature_map(self.net, self.pictures(clips_BTCHW)), clips_BTCHW.shape[0])
        if not self.takes_clips:
            return features.unflatten(0, (len(clips_BTCHW), -1))
        return features.transpose(1, 2) if features.ndim == 5 else features.unsqueeze(1)

    def first_tower(self, rows: Tensor, clips: int) -> Tensor:
        """The rows of tower 0, or of stream 0, of a module's output in the latest pass over `clips` clips.

        Rows (N, ...) of a single network, or of a module inside one tower, are returned as they are.
        """
        pictures = clips if self.takes_clips or self.stacks_frames else clips * self.steps(self.frames.count)
        in_turn = self.num_towers * self.num_streams
        return rows[::in_turn] if len(rows) == in_turn * pictures else rows

    def tower_distance(self) -> Tensor:
        """Sum of squared differences between the trainable weights of both towers, 0-dim; 0 for a single network."""
        return tower_distance(self.net)

    def steps(self, num_frames: int) -> int:
        """T', the number of time steps of features, for clips of T frames."""
        return 1 if self.time_stride is None else -(-num_frames // self.time_stride)

    def pictures(self, clips_BTCHW: Tensor) -> Tensor:
        """The network's normalised input.

        (B T, C, H, W) for image networks, (B ceil(T / 3), C, H, W) of grey stacks and twice as many of two streams,
        (B, T C, H, W) with early fusion, (B, C, T, H, W) for video networks. With two towers each row is repeated: row
        0, row 0, row 1, row 1, …
        """
        num_frames = clips_BTCHW.shape[1]
        if self.fixed_frames not in (None, num_frames):
            raise ModelError(
                f"this backbone was built for clips of {self.fixed_frames} frames and got {num_frames}; "
                f"set clip.num_frames to {self.fixed_frames}"
            )
        self.frames.count = num_frames
        clips_BTCHW = clips_BTCHW.to(self.mean.dtype)
        if self._to_pictures is not None:
            clips_BTCHW = self._to_pictures(clips_BTCHW)
        pictures = (clips_BTCHW - self.mean) / self.std
        if self.takes_clips:
            pictures = pictures.transpose(1, 2)
        else:
            pictures = pictures.flatten(1, 2) if self.stacks_frames else pictures.flatten(0, 1)
        if self.num_towers == 2:
            pictures = pictures.repeat_interleave(2, 0)
        return pictures.contiguous(memory_format=self.layout)


def build_backbone(
    name: Any,
    *,
    weights: str = "imagenet",
    size: int | None = None,
    num_frames: int = 8,
    drop_path: float = 0.0,
    fusion: str = "late",
    sharing: str = "hard",
) -> Backbone:
    """A backbone without its classifier: a timm name (`resnet50.a1_in1k`), `torchvision/<name>`, or an own part.

    `weights`: `imagenet` (for video networks: Kinetics), `bundled`, `none` (random), or a file. `imagenet` takes
    `<name>.safetensors` from $FINETUNE_WEIGHTS, else the library's cache, else downloads. `size` is the side of the
    pictures in pixels, by default the one used in pretraining; position embeddings of another size are resampled.
    `drop_path` is the stochastic depth rate of the last residual block; it grows linearly over the blocks. `fusion`
    is how frames are mixed (frame_fusion.py). `sharing` is a recipe's `multitask.sharing`: with `towers`
    or `cross_stitch` the network is copied, and both copies start with the weights (towers.py). Raises ModelError.
    """
    if is_own(name):
        return _own_backbone(name, weights, size, num_frames=num_frames, settings=(drop_path, fusion, sharing))
    check_name(name)

    def build(side: int | None, frames: int) -> Network:
        if name.startswith("torchvision/"):
            return torchvision_network(name, size=side, num_frames=frames, drop_path=drop_path)
        return timm_network(name, size=side, drop_path=drop_path)

    network = _build_for_size(build, name, size, num_frames)
    side = size or network.spec.size
    if weights != "none":
        file, state = find_weights(name, weights, network.download)
        if side != network.spec.size:
            file = f"{file}, at {side} pixels instead of {network.spec.size}"
        prefixes = network.head_prefixes
        load_weights(network.net, state, where=file, head_prefixes=prefixes, translate=network.translate)
    backbone = Backbone(network, num_frames=num_frames, fusion=fusion, size=side, sharing=sharing)
    backbone.weights_source = find_source(name, weights, network.published)
    if fusion != "late":
        try:
            _run_once(backbone, torch.zeros(1, num_frames, 3, side, side))
        except BUILD_ERRORS as error:
            raise ModelError(f"model.fusion {fusion!r} does not work with {name!r}: {_first_line(error)}") from None
    return backbone


def _own_backbone(
    part: Any, weights: str, size: int | None, *, num_frames: int, settings: tuple[float, str, str]
) -> Backbone:
    """The user's own network, with the weights that it has, or those of the file `weights`.

    `settings` are the drop path, fusion and sharing of a backbone by name, which an own one does not take.
    """
    for key, value, only in zip(OWN_SETTINGS, settings, OWN_SETTINGS.values(), strict=True):
        if value != only:
            raise ModelError(f"{key} is {value!r}, which your own backbone does not take; set it to {only!r}")
    network = own_network(part, size)
    is_file = weights not in {"imagenet", "bundled", "none"}
    if is_file:
        load_weights(network.net, read_weights(Path(weights)), where=weights, head_prefixes=())
    backbone = Backbone(network, num_frames=num_frames, fusion="late", size=network.spec.size)
    backbone.weights_source = file_source(Path(weights)) if is_file else network.published
    return backbone


OWN_SETTINGS: dict[str, Any] = {"model.drop_path": 0.0, "model.fusion": "late", "multitask.sharing": "hard"}
BuildNetwork = Callable[[int | None, int], Network]
BUILD_ERRORS = (AssertionError, RuntimeError, ValueError, TypeError, IndexError)  # raised by networks for a wrong size


def _build_for_size(build: BuildNetwork, name: str, size: int | None, num_frames: int) -> Network:
    """The network built for `size`. Raises ModelError that suggests sizes nearby where the network cannot take it."""
    try:
        return _build_and_try(build, size, num_frames)
    except BUILD_ERRORS as error:
        reason = _first_line(error)
    spec = build(None, num_frames).spec
    side = size or spec.size
    if spec.num_frames is None:
        wanted, setting = f"pictures of {side} pixels", "clip.size"
        near = {side // step * step + more for step in (14, 16, 32) for more in (0, step)} - {0, side}
        options = [(other, num_frames) for other in sorted(near | {spec.size}, key=lambda other: abs(other - side))]
    else:
        wanted, setting = f"clips of {num_frames} frames of {side} pixels", "clip.num_frames and clip.size"
        options = [(side, 16), (spec.size, num_frames), (spec.size, 16)]
    accepted: list[str] = []
    for other, frames in options:
        with suppress(*BUILD_ERRORS):
            _build_and_try(build, other, frames)
            accepted.append(str(other) if spec.num_frames is None else f"{frames} frames of {other}")
        if len(accepted) == 3:
            break
    raise ModelError(
        f"model.backbone {name!r} cannot take {wanted}: {reason}; it takes {' or '.join(accepted)}: set {setting}"
    )


def _build_and_try(build: BuildNetwork, size: int | None, num_frames: int) -> Network:
    """The network; it is run once if its input differs from that of pretraining, so that a wrong size fails here."""
    network = build(size, num_frames)
    spec, side = network.spec, size or network.spec.size
    if side != spec.size or (network.takes_clips and num_frames != spec.num_frames):
        shape = (1, 3, num_frames, side, side) if network.takes_clips else (1, 3, side, side)
        _run_once(network.net, torch.zeros(shape))
    return network


def _run_once(net: nn.Module, inputs: Tensor) -> None:
    with torch.no_grad():
        net.eval()(inputs)
    net.train()


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split())[:200] or type(error).__name__

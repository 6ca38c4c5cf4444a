"""A model with a tower for pictures and one for words, by open_clip: CLIP, SigLIP, PE-Core and others.

Both towers give vectors of one space, in which a picture is near to words that describe it (CLIP, arXiv:2103.00020;
SigLIP 2, arXiv:2502.14786; PE, arXiv:2504.13181). Pictures are prepared as open_clip does: each model has its own size,
mean, standard deviation and interpolation. Weights are read from safetensors files only.
"""

import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from finetune.errors import ModelError, reason_of, shorten_list, suggest_similar
from finetune.feature_cache.frozen_part import hash_tensors
from finetune.model.backbone.fetch_weights import download_from_hub
from finetune.model.backbone.load_weights import local_file
from finetune.retrieval.tower_names import PREFIX, TowerName, parse_tower_name
from finetune.runtime.device import autocast
from finetune.runtime.extras import import_extra

SAFE_FILE = "open_clip_model.safetensors"  # in repositories of the hub whose file open_clip does not name
TEXTS_PER_BATCH = 64
NOT_THERE = (OSError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled)


class TwoTowers:
    """Gives vectors of length 1 for pictures and for words."""

    def __init__(self, backbone: str, weights: str, *, device: torch.device, precision: str = "fp32") -> None:
        """`weights` is `imagenet` (those of the name), `none` (random ones), or a safetensors file.

        Raises ModelError for an unknown name, for weights that are missing or do not fit, and for pickles.
        """
        open_clip = import_extra("open_clip", extra="text")
        logging.getLogger("root").setLevel(logging.ERROR)  # open_clip warns there that weights are loaded later
        self.name = parse_tower_name(backbone)
        tag = _tag_config(open_clip, self.name)
        self.net = _build(open_clip, self.name, tag)
        if weights != "none":
            _load(open_clip, self.net, _weights_file(self.name, weights, tag))
        self.net = self.net.to(device).eval().requires_grad_(False)
        self.device, self.precision = device, precision
        self.preprocessing: dict[str, Any] = dict(self.net.visual.preprocess_cfg)
        config = open_clip.transform.PreprocessCfg(**self.preprocessing)
        self._transform = open_clip.transform.image_transform_v2(config, is_train=False)
        self._tokenizer: Any = None
        size = self.preprocessing["size"]
        self.size = int(min(size) if isinstance(size, Sequence) else size)
        self.dim = self.embed_texts_of_tokens(torch.zeros((1, self.net.context_length), dtype=torch.long)).shape[1]

    def hash(self) -> str:
        """The sha256 of the weights of both towers."""
        return hash_tensors(self.net.state_dict())

    def prepare(self, picture_HWC: np.ndarray) -> Tensor:
        """The input (3, S, S) of the picture tower, from a picture RGB uint8 (H, W, 3) of any size."""
        tensor: Tensor = self._transform(Image.fromarray(picture_HWC))
        return tensor

    @torch.inference_mode()
    def embed_pictures(self, prepared_F3SS: Tensor) -> Tensor:
        """Vectors (F, D) of prepared pictures, float32 of length 1."""
        with autocast(self.precision, self.device):
            features_FD = self.net.encode_image(prepared_F3SS.to(self.device))
        return torch.nn.functional.normalize(features_FD.float(), dim=-1).cpu()

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (Q, D) of texts, float32 of length 1. Raises ModelError for an empty or a too long text."""
        tokenize = self._get_tokenizer()
        for text in texts:
            if not text.strip():
                raise ModelError("the text is empty; describe in a few words what the clips show")
            longest = self.net.context_length - 2  # without the tokens of start and end
            if hasattr(tokenize, "encode") and (count := len(tokenize.encode(text))) > longest:
                raise ModelError(f"a text has {count} tokens, {self.name} reads {longest}: {text[:60]!r}…; shorten it")
        batches = [texts[first : first + TEXTS_PER_BATCH] for first in range(0, len(texts), TEXTS_PER_BATCH)]
        vectors = [self.embed_texts_of_tokens(tokenize(list(batch))) for batch in batches]
        return torch.cat(vectors).numpy()

    @torch.inference_mode()
    def embed_texts_of_tokens(self, tokens_QL: Tensor) -> Tensor:
        """Vectors (Q, D) of texts that the tokenizer turned into numbers (Q, L)."""
        features_QD = self.net.encode_text(tokens_QL.to(self.device))  # texts are few: always in fp32
        return torch.nn.functional.normalize(features_QD.float(), dim=-1).cpu()

    def _get_tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = _build_tokenizer(self.name)
        return self._tokenizer


def _tag_config(open_clip: Any, name: TowerName) -> dict[str, Any]:
    """What open_clip knows of the weights: where they are, and how pictures are prepared. Raises ModelError."""
    models = open_clip.list_models()
    if name.model not in models:
        near = suggest_similar(name.model, models) or f"; there are {shorten_list(models, limit=10)}"
        raise ModelError(f"model.backbone={name}: open_clip has no model {name.model!r}{near}")
    tags = open_clip.list_pretrained_tags_by_model(name.model)
    if name.tag is not None and name.tag not in tags:
        near = suggest_similar(name.tag, tags) or f"; there are {', '.join(tags) or 'none'}"
        raise ModelError(f"model.backbone={name}: {name.model} has no weights {name.tag!r}{near}")
    if name.tag is None and len(tags) > 1:
        raise ModelError(
            f"model.backbone={name}: has several weights; add the name of one, for example {name}/{tags[0]}: "
            f"{', '.join(tags)}"
        )
    tag = name.tag or next(iter(tags), None)
    return {"tag": tag, **open_clip.get_pretrained_cfg(name.model, tag)} if tag else {"tag": None}


def _build(open_clip: Any, name: TowerName, tag: dict[str, Any]) -> Any:
    """The network with random weights. Some text towers read settings from the hub: raises ModelError without them."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return open_clip.create_model(
                name.model,
                pretrained_image=False,
                pretrained_text=False,
                force_quick_gelu=bool(tag.get("quick_gelu")),
                force_preprocess_cfg=tag,
            )
    except (ImportError, *NOT_THERE) as error:
        raise ModelError(f"model.backbone={name}: cannot be built: {reason_of(error)}") from None


def _weights_file(name: TowerName, weights: str, tag: dict[str, Any]) -> Path:
    """The safetensors file with the weights; downloaded if it is neither given, nor in a folder, nor in the cache."""
    if weights == "imagenet":
        names = [str(name), *([f"{name}/{tag['tag']}"] if name.tag is None and tag["tag"] else [])]
        found = next(filter(None, map(local_file, names)), None)
        return found or _download(name, names[-1], tag)
    file = Path(weights)
    if file.suffix != ".safetensors" or not file.is_file():
        what = "there is no such file" if not file.is_file() else "is no safetensors file; pickles are not read"
        raise ModelError(f"model.weights={weights}: {what}; {PREFIX} models take a safetensors file, imagenet or none")
    return file


def _download(name: TowerName, file_name: str, tag: dict[str, Any]) -> Path:
    repository, _, file = str(tag.get("hf_hub", "")).rpartition("/")
    put = f"put it as {file_name}.safetensors into a folder and set FINETUNE_WEIGHTS to that folder"
    if not repository:
        raise ModelError(
            f"model.backbone={name}: open_clip knows no safetensors file with its weights; convert them, and {put}, or "
            "set model.weights=FILE"
        )
    file = f"{file.rpartition('.')[0]}.safetensors" if file else SAFE_FILE
    try:
        return download_from_hub(repository, file)
    except NOT_THERE as error:
        raise ModelError(
            f"the weights of {name} are neither on this machine nor could they be downloaded "
            f"({type(error).__name__}).\nFetch {file} of {repository} on the Hugging Face hub, and set "
            f"model.weights=FILE to it, or {put}."
        ) from None


def _load(open_clip: Any, net: Any, file: Path) -> None:
    try:
        open_clip.load_checkpoint(net, str(file), strict=True)
    except (SafetensorError, RuntimeError, ValueError, KeyError, AttributeError, OSError, StopIteration) as error:
        raise ModelError(f"{file}: does not fit the model: {reason_of(error)}") from None


def _build_tokenizer(name: TowerName) -> Any:
    """open_clip's tokenizer of a model; that of SigLIP and others is a download. Raises ModelError without it."""
    open_clip = import_extra("open_clip", extra="text")
    text = open_clip.get_model_config(name.model)["text_cfg"]
    repository = text.get("hf_tokenizer_name")
    if not repository:
        return open_clip.get_tokenizer(name.model)
    weights_folder = os.environ.get("FINETUNE_WEIGHTS")
    folder = Path(weights_folder or ".", f"{PREFIX}{name.model}-tokenizer")
    try:
        if not (weights_folder and folder.is_dir()):
            folder = download_from_hub(repository, "tokenizer_config.json")  # fails at once without a network
        return open_clip.tokenizer.HFTokenizer(
            str(folder) if folder.is_dir() else repository,
            context_length=text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH),
            tokenizer_mode=text.get("tokenizer_mode"),
            **text.get("tokenizer_kwargs", {}),
        )
    except (ImportError, ValueError, KeyError, TypeError, *NOT_THERE) as error:
        raise ModelError(
            f"the tokenizer of {name} is neither on this machine nor could it be downloaded "
            f"({reason_of(error, limit=150)}).\nFetch tokenizer.json, tokenizer_config.json and "
            f"special_tokens_map.json of {repository} on the Hugging Face hub into a folder "
            f"{PREFIX}{name.model}-tokenizer in the folder $FINETUNE_WEIGHTS."
        ) from None

"""Where a backbone's pretrained weights come from: a file, this package, the library's cache, or the network."""

import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import getproxies

import huggingface_hub.constants
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from finetune.errors import ModelError
from finetune.model.backbone.known_names import BUNDLED, bundled_names
from finetune.model.backbone.load_weights import StateDict, local_file, read_weights


def find_weights(name: str, weights: str, download: Callable[[], tuple[str, StateDict]]) -> tuple[str, StateDict]:
    """The source of the weights, in words, and the weights. `weights` is `imagenet`, `bundled` or a file."""
    if weights == "imagenet":
        file = local_file(name)
        return (str(file), read_weights(file)) if file else download()
    if weights == "bundled":
        if name not in bundled_names():
            raise ModelError(f"model.weights 'bundled': {name!r} is not bundled; {', '.join(bundled_names())} is")
        return "bundled weights", read_weights(BUNDLED / f"{name}.safetensors")
    return weights, read_weights(Path(weights))


def download_from_hub(repository: str, file: str) -> Path:
    """A file in the hub's cache, downloaded if needed; without a network this fails at once, not after retries."""
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return Path(cached)
    if not getproxies():
        endpoint = urlparse(huggingface_hub.constants.ENDPOINT)
        socket.getaddrinfo(endpoint.hostname, endpoint.port or 443)
    return Path(hf_hub_download(repository, file))


def load_or_explain_offline(name: str, where: str, load: Callable[[], StateDict]) -> StateDict:
    """The result of `load`. If the network fails, raises ModelError that says what to download and where to put it."""
    try:
        return load()
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        file = "model.safetensors" if urlparse(where).netloc == "huggingface.co" else where.rpartition("/")[2]
        raise ModelError(
            f"the weights of {name!r} are neither on this machine nor could they be downloaded "
            f"({type(error).__name__}).\nFetch {file} from {where} and set model.weights=FILE to it, or put it as "
            f"{name}.safetensors into a folder and set FINETUNE_WEIGHTS to that folder."
        ) from None

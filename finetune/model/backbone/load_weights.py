"""Read weight files and load them into a network; anything missing or left over is an error."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from finetune.errors import ModelError, shorten_list

StateDict = dict[str, Tensor]


def local_file(name: str) -> Path | None:
    """`<name>.safetensors` in the folder $FINETUNE_WEIGHTS, if it exists."""
    folder = os.environ.get("FINETUNE_WEIGHTS")
    file = Path(folder, f"{name}.safetensors") if folder else None
    return file if file is not None and file.is_file() else None


def read_weights(path: Path) -> StateDict:
    """Tensors of a .safetensors file, or of a PyTorch checkpoint read with `weights_only`.

    A checkpoint may hold its tensors under `state_dict` or `model` and prefix their names with `module.`. From a
    classifier saved by this package the backbone's weights are taken. Raises ModelError for anything else.
    """
    if not path.is_file():
        raise ModelError(f"model.weights: there is no file {str(path)!r}")
    state: Any
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ModelError(f"{path}: cannot be read as weights: {' '.join(str(error).split())[:300]}") from None
    except Exception as error:  # torch raises pickle's own errors for what it refuses to execute
        raise ModelError(f"{path}: is not a plain weights file and is not executed: {type(error).__name__}") from None
    state = next((state[key] for key in ("state_dict", "model") if isinstance(state, dict) and key in state), state)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{path}: holds no dictionary of tensors")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = {key.removeprefix("backbone.net."): value for key, value in state.items() if key.startswith("backbone.net.")}
    return own or state


def load_weights(
    net: nn.Module,
    state: StateDict,
    *,
    where: str,
    head_prefixes: Sequence[str],
    translate: Callable[[StateDict, nn.Module], StateDict] | None = None,
) -> None:
    """Load all weights except those of the old classifier, whose names start with `head_prefixes`.

    `translate` converts weights of another version or input size; it is called only if names or shapes differ.
    Raises ModelError that lists missing and surplus weights and those of another shape.
    """
    expected = net.state_dict()
    weights = _without_head(state, expected, head_prefixes)
    if _differences(weights, expected) and translate is not None:
        weights = _without_head(translate(dict(state), net), expected, head_prefixes)
    problems = _differences(weights, expected)
    if problems:
        raise ModelError("\n".join(f"{where}: does not fit the backbone: {problem}" for problem in problems))
    weights = {key: value.to(expected[key].dtype) for key, value in weights.items()}
    net.load_state_dict(weights, strict=False)


def _without_head(state: StateDict, expected: StateDict, head_prefixes: Sequence[str]) -> StateDict:
    prefixes = tuple(f"{prefix}." for prefix in head_prefixes)
    return {key: value for key, value in state.items() if key in expected or not key.startswith(prefixes)}


def _differences(state: StateDict, expected: StateDict) -> list[str]:
    # Files may lack num_batches_tracked, which batch norm needs only without momentum.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, the backbone has {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    named = (("missing", missing), ("surplus", surplus), ("of another shape", shapes))
    return [f"{len(keys)} {what}: {shorten_list(keys, limit=20)}" for what, keys in named if keys]

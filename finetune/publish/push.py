"""Publish a model on the Hugging Face hub: only the files that predicting needs, without names of clips or paths."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.errors import RunError
from finetune.recipe.load import recipe_yaml
from finetune.recipe.public_recipe import public_recipe
from finetune.run.folder import ExportedFolder, RunFolder
from finetune.run.hub import CARD, META, PUBLIC_FILES, WEIGHTS, HubModel, check_repo_name, explain_hub_errors
from finetune.run.manifest import reads_image_sequences
from finetune.run.model_json import MODEL_FILES, read_model_info
from finetune.run.read import Run, open_run, read_checkpoint_meta, read_environment


def public_files(folder: str | Path, card: str) -> dict[str, Path | bytes]:
    """The contents of a published model by file name, from a run folder or an exported model; the card is its README.

    Weights are files as they are; all text is written anew. Raises RunError for a folder that cannot be published.
    """
    run = open_run(folder)
    files: dict[str, Path | bytes] = {CARD: card.encode()}
    data = run.recipe.data.model_copy(update={"image_sequences": reads_image_sequences(run)})
    recipe = public_recipe(run.recipe.model_copy(update={"data": data}))
    source = RunFolder(run.folder)
    files[source.recipe.name] = recipe_yaml(recipe).encode()
    for path in (source.classes, source.tasks, source.event_settings):
        if path.is_file():
            files[path.name] = path.read_bytes()
    files |= _exported_files(run) if ExportedFolder(run.folder).info.is_file() else _checkpoint_files(run)
    assert set(files) - {ExportedFolder(run.folder).reader.name} <= set(PUBLIC_FILES), files.keys()
    return files


def _checkpoint_files(run: Run) -> dict[str, Path | bytes]:
    best = RunFolder(run.folder).checkpoint("best")
    if not best.exists():
        raise RunError(f"{run.folder}: has no checkpoint `best` yet; train it first")
    meta = {key: value for key, value in read_checkpoint_meta(best).items() if key != "cache"}
    environment: Mapping[str, Any] = read_environment(run.folder) or {}
    public = {key: environment[key] for key in ("format", "versions", "weights") if key in environment}
    return {RunFolder(run.folder).environment.name: _json(public), META: _json(meta), WEIGHTS: best.weights}


def _exported_files(run: Run) -> dict[str, Path | bytes]:
    files = ExportedFolder(run.folder)
    info = read_model_info(files.info)
    if info["runtime"] == "torch":
        raise RunError(
            f"{run.folder}: is a .pt2 file, which can hold code, so `hf://` would not read it; "
            "publish the run itself, or an export to onnx or openvino"
        )
    parity = info.get("parity")
    split = None if parity is None else parity["split"]
    if split is not None:  # the clips that the exported model predicts otherwise, without their names
        split["different"] = {
            task: [{key: value for key, value in clip.items() if key != "clip"} for clip in clips]
            for task, clips in split["different"].items()
        }
    model = files.path / MODEL_FILES[info["runtime"]]
    tensors: dict[str, Path | bytes] = {
        path.name: path for path in (model, model.with_suffix(".bin")) if path.is_file()
    }
    reader: dict[str, Path | bytes] = {files.reader.name: files.reader} if files.reader.is_file() else {}
    return {files.info.name: _json(info), **tensors, **reader}


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def file_sizes(files: Mapping[str, Path | bytes]) -> dict[str, int]:
    """The size of each file in bytes."""
    return {name: len(data) if isinstance(data, bytes) else data.stat().st_size for name, data in files.items()}


def push(
    files: Mapping[str, Path | bytes],
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Publish a model with finetune",
) -> str:
    """Create the repository where it does not exist, and write `files` in one commit; the address of the commit.

    Files of an earlier model that this one does not have are removed. `revision` is a branch, created if needed.
    Raises RunError where the hub cannot be reached, or does not allow it.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    check_repo_name(repo)
    if get_token() is None:
        raise RunError(f"{repo}: the hub wants to know who you are: log in with `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with explain_hub_errors(str(HubModel(repo, revision))):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        siblings = api.model_info(repo, revision=revision).siblings or ()
        earlier = {file.rfilename for file in siblings} & set(PUBLIC_FILES)
        operations: list[Any] = [CommitOperationDelete(name) for name in sorted(earlier - set(files))]
        operations += [CommitOperationAdd(name, data) for name, data in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message, revision=revision)
    return str(commit.commit_url)

"""Published models: `hf://owner/name[@revision]` is downloaded from the Hugging Face hub once and read as a run folder.

Only files with the names below are downloaded, tensors and text: nothing in them is executed.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune.errors import RunError, reason_of
from finetune.storage.atomic import atomic_file, atomic_folder, exclusive_lock, user_cache_dir
from finetune.storage.safe_read import read_text_file

MAX_WEIGHTS_BYTES, MAX_TEXT_BYTES = 20_000_000_000, 100_000_000
CARD, WEIGHTS, META = "README.md", "checkpoints/best/model.safetensors", "checkpoints/best/meta.json"
_TENSORS = (WEIGHTS, "model.onnx", "model.bin")
_TEXTS = (
    *("recipe.yaml", "classes.json", "tasks.json", "environment.json", "event_settings.json"),
    *(META, "model.json", "model.xml", CARD),
)
PUBLIC_FILES = (*_TEXTS, *_TENSORS)
_REFERENCE = re.compile(r"hf:/{1,2}(?P<repo>[^/@\s]+/[^/@\s]+)(@(?P<revision>[^\s]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubModel:
    """A model on the hub, at a branch, tag or commit; None is the newest version."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")


def parse_hub_model(text: str) -> HubModel | None:
    """The model that `hf://owner/name[@revision]` names; None for other text. Raises RunError for a malformed name."""
    if not text.startswith("hf:"):
        return None
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise RunError(f"{text}: names no model; write hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    check_repo_name(match["repo"])
    return HubModel(match["repo"], match["revision"])


def check_repo_name(repo: str) -> None:
    """Raise RunError for what the hub cannot have as the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        valid = "/" in repo
    except HFValidationError:
        valid = False
    if not valid:
        raise RunError(f"{repo}: is no name of a model on the hub; write OWNER/NAME, with letters, digits, - _ and .")


def local_folder(run: str | Path) -> Path:
    """The folder of a run: of a model on the hub, where it was downloaded to; of any other, the path itself."""
    model = parse_hub_model(str(run))
    return Path(run) if model is None else download_model(model)


def download_model(model: HubModel) -> Path:
    """The folder with the files of a published model, downloaded unless this version already was.

    Without a network the version that was downloaded last is used. Raises RunError.
    """
    root = user_cache_dir("hub") / model.repo.replace("/", "--")
    if model.revision and _COMMIT.fullmatch(model.revision) and (root / model.revision).is_dir():
        return root / model.revision
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # the library's HTTP client differs by its version

    newest = root / f"{quote(model.revision or 'default', safe='')}.commit"
    with explain_hub_errors(str(model)):
        try:
            commit, sizes = _list_files(model)
        except (OSError, HTTPError) as error:  # an answer of the hub is a HfHubHTTPError; else there is no network
            downloaded = root / (read_text_file(newest) or "none")
            if isinstance(error, HfHubHTTPError) or not downloaded.is_dir():
                raise
            return downloaded
        folder = root / commit
        if not folder.is_dir():
            _check_files(model, sizes)
            root.mkdir(parents=True, exist_ok=True)
            refusal = f"{model}: another program is downloading it; try again when that is done"
            with exclusive_lock(root / ".lock", refusal), atomic_folder(folder) as partial:
                _download_files(model.repo, commit, sizes, partial)
    with atomic_file(newest, concurrent_writers=True) as partial_file:
        partial_file.write_text(commit, encoding="utf-8")
    return folder


def _list_files(model: HubModel) -> tuple[str, dict[str, int]]:
    """The commit of a revision, and the sizes in bytes of those of its files that may be downloaded."""
    from huggingface_hub import HfApi

    info = HfApi().model_info(model.repo, revision=model.revision, files_metadata=True, timeout=30)
    commit = str(info.sha)
    if not _COMMIT.fullmatch(commit):
        raise RunError(f"{model}: the hub names no valid commit of it")
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    return commit, {name: size for name, size in files.items() if name in PUBLIC_FILES}


def _check_files(model: HubModel, sizes: dict[str, int]) -> None:
    has_model = {WEIGHTS, META} <= sizes.keys() or "model.json" in sizes
    if not ({"recipe.yaml", "classes.json"} <= sizes.keys() and has_model):
        raise RunError(
            f"{model}: is no model that `finetune push` published: it lacks recipe.yaml, classes.json, or the weights"
        )
    for name, size in sizes.items():
        limit = MAX_WEIGHTS_BYTES if name in _TENSORS else MAX_TEXT_BYTES
        if size > limit:
            raise RunError(f"{model}: {name} has {size:,} bytes, and at most {limit:,} are read")


def _download_files(repo: str, commit: str, sizes: dict[str, int], folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    for name, size in sizes.items():
        file = Path(hf_hub_download(repo, name, revision=commit, local_dir=folder))
        if file.stat().st_size != size:
            raise RunError(f"hf://{repo}: {name} was not downloaded completely; try again")
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's notes on the download


@contextmanager
def explain_hub_errors(what: str) -> Iterator[None]:
    """Raise RunError in words for what goes wrong between this machine and the hub; `what` is the model."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log_in = "log in with `hf auth login`, or set HF_TOKEN"
    try:
        yield
    except GatedRepoError:
        raise RunError(
            f"{what}: its owner lets in only who asks: accept its terms on its page, then {log_in}"
        ) from None
    except RepositoryNotFoundError:
        raise RunError(
            f"{what}: the hub has no such model, or it is private; check the name, and for a private model {log_in}"
        ) from None
    except RevisionNotFoundError:
        raise RunError(f"{what}: the model has no such branch, tag or commit") from None
    except LocalTokenNotFoundError:
        raise RunError(f"{what}: the hub wants to know who you are: {log_in}") from None
    except OfflineModeIsEnabled:
        raise RunError(f"{what}: is not on this machine, and HF_HUB_OFFLINE forbids to download it") from None
    except HfHubHTTPError as error:
        raise RunError(f"{what}: {_http_problem(error, log_in)}") from None
    except (HTTPError, ConnectionError) as error:
        raise RunError(f"{what}: {constants.ENDPOINT} cannot be reached: {reason_of(error)}") from None
    except OSError as error:
        raise RunError(f"{what}: {reason_of(error)}") from None


def _http_problem(error: Any, log_in: str) -> str:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        return f"the hub does not accept who you are; {log_in}"
    if status == 403:
        return f"your token does not allow it; use one that may write there, or {log_in}"
    message = " ".join(str(error.server_message or error).split())[:300]
    return f"the hub answers {status}: {message}" if status else message

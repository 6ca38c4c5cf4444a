"""`finetune card` and `finetune push`: describe a model, and publish it on the Hugging Face hub."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.arguments import RunArgument
from finetune.errors import RunError
from finetune.text import with_unit

Licence = Annotated[
    str | None,
    typer.Option("--license", metavar="ID", help="Licence of the model. Default: that of the pretrained weights."),
]
Dataset = Annotated[
    str | None, typer.Option(metavar="OWNER/NAME", help="The data set that it was trained on, if it is on the hub.")
]


def card(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a file instead of printing.")] = None,
    repo: Annotated[
        str,
        typer.Option(metavar="OWNER/NAME", help="Where the model will be on the hub, for the examples in the card."),
    ] = "OWNER/NAME",
    licence: Licence = None,
    dataset: Dataset = None,
) -> None:
    """Write a model card: the README that the Hugging Face hub shows.

    It tells figures with intervals, splits, limits and licence, and names no clip, path or group.

    Example: finetune card runs/mine --out README.md
    """
    from finetune.publish.card import model_card
    from finetune.storage.atomic import atomic_file, check_writable

    if out is not None:
        check_writable(out)
    text = model_card(run, repo=repo, licence=licence, dataset=dataset)
    if out is None:
        print(text, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(out) as partial:
        partial.write_text(text, encoding="utf-8")
    print(out)


def push(
    run: RunArgument,
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the hub; made if it does not exist.")],
    private: Annotated[bool, typer.Option("--private", help="A new repository is private.")] = False,
    revision: Annotated[str | None, typer.Option(metavar="BRANCH", help="Branch to write to. Default: main.")] = None,
    message: Annotated[
        str, typer.Option(metavar="TEXT", help="Message of the commit.")
    ] = "Publish a model with finetune",
    card_file: Annotated[
        Path | None, typer.Option("--card", metavar="FILE", help="README to publish. Default: `finetune card`.")
    ] = None,
    licence: Licence = None,
    dataset: Dataset = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the files that would be published.")] = False,
) -> None:
    """Publish a run or an exported model on the Hugging Face hub.

    Only what predicting needs is published: no clip, path, group or prediction.
    Anyone may then run: finetune predict hf://OWNER/NAME VIDEO

    Example: finetune push runs/mine me/my-model --private
    """
    from finetune.model.backbone.weights_source import licence_warning
    from finetune.publish.card import model_card
    from finetune.publish.card_facts import read_card_facts
    from finetune.publish.push import file_sizes, public_files
    from finetune.publish.push import push as push_files
    from finetune.run.hub import check_repo_name

    check_repo_name(repo)
    text = model_card(run, repo=repo, licence=licence, dataset=dataset) if card_file is None else _read_card(card_file)
    files = public_files(run, text)
    sizes = file_sizes(files)
    print(f"To {repo}, {len(sizes)} files, {with_unit(sum(sizes.values()), 'B')}:", file=sys.stderr)
    for name, size in sizes.items():
        print(f"  {with_unit(size, 'B'):>8}  {name}", file=sys.stderr)
    if warning := licence_warning(read_card_facts(run).weights or {}):
        print(f"finetune: {' '.join(warning)}", file=sys.stderr)
    if dry_run:
        return
    print(push_files(files, repo, private=private, revision=revision, message=message))
    print(f"finetune predict hf://{repo}{f'@{revision}' if revision else ''} VIDEO", file=sys.stderr)


def _read_card(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read as a card: {error}") from None

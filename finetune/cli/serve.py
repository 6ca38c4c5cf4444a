"""`finetune serve`: a local web page and a JSON API for a run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from finetune.cli.arguments import DataRoot, OwnParts, RunArgument
from finetune.errors import DataError, FinetuneError
from finetune.recipe.own_parts import import_named_parts

NEEDED = ("fastapi", "uvicorn", "python_multipart")


def serve(
    run: RunArgument,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR|CSV", help="Folder of clips to label, or the CSV to correct. Default: the run's."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="N", help="Port; 0 takes any that is free.")] = 8000,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. Others than this machine's need a token.")
    ] = "127.0.0.1",
    data_root: DataRoot = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    parts: OwnParts = None,
) -> None:
    """Serve a run on this machine: try it on videos and browse its clips.

    Prints the address of a page and of a JSON API. Ctrl-C ends it. Nothing is loaded from any other site.

    Example: finetune serve runs/mine
    """
    from finetune.run.read import open_run

    if data is not None and not data.exists():
        raise DataError(f"--data {data}: there is no such folder or CSV file")
    opened = open_run(open_run(run), parts=import_named_parts(parts or ()))
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise FinetuneError(f'serve needs {", ".join(missing)}: pip install "finetune-video[serve]"')
    from finetune.serve.server import ServeOptions
    from finetune.serve.server import serve as run_server

    try:
        run_server(opened, ServeOptions(host, port, data, data_root, open_browser))
    except KeyboardInterrupt:
        print("Stopped")

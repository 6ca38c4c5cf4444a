"""`finetune compare` and `finetune runs`: several runs beside each other, and all that lie in a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

_MIN_FIGURE_WIDTH = 11  # letters, of "top-1 0.958"
_MAX_NAME_LENGTH = 60  # of a run, in the name of the page


def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders: one, and those to hold against it.")] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val or test: on which clips; by default those scored in training.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page; by default compare-….html beside the first run.")] = None,
) -> None:
    """Say whether runs differ by more than luck, on the clips that all were tested on, and write a page of it."""
    from finetune.report.compare.page import compare_runs, write_compare_page

    folders = runs or []
    result = compare_runs(folders, split=split)
    page = out or folders[0].resolve().parent / _page_name(folders)
    write_compare_page(result, page)
    print(_table(result))
    for what, todo in result["caveats"]:
        print(f"mind: {what} {todo}".rstrip())
    print(f"page  {page}")


def _page_name(runs: list[Path]) -> str:
    first, second = (run.resolve().name[:_MAX_NAME_LENGTH] for run in runs[:2])
    return f"compare-{first}-{second}" + f"-and-{len(runs) - 2}-more" * (len(runs) > 2) + ".html"


def _table(result: Mapping[str, Any]) -> str:
    """The runs, then each against the first."""
    runs = result["runs"]
    width = max(len("run"), *(len(run["name"]) for run in runs))
    what = "all right" if result["kind"] == "multilabel" else "top-1"
    lines = [f"   {'run':{width}}  {what} on {result['num_rows']} common {result['split']} clips"]
    for run in runs:
        low, high = run["right_ci"]
        lines.append(
            f"{run['mark']}  {run['name']:{width}}  {run['right']:.3f} (95 % interval {low:.3f} to {high:.3f})"
        )
    for task in result["tasks"]:
        told = (f"{run['mark']} {cell['text']}" for run, cell in zip(runs, task["runs"], strict=True) if cell)
        lines.append(f"   {task['name']}: {task['figure']} {', '.join(told)}")
    lines.append("")
    for pair in result["pairs"]:
        first, other = (runs[pair[side]]["mark"] for side in ("first", "other"))
        low, high = (100 * end for end in pair["interval"])
        reach = "" if pair["verdict"] == "unsettled" else f" (95 % interval {low:+.1f} to {high:+.1f})"
        lines.append(
            f"{other} against {first}: {pair['words']}; {100 * pair['difference']:+.1f} points{reach}, "
            f"only {first} right {pair['only_first']}, only {other} right {pair['only_other']}"
        )
    return "\n".join(lines)


def runs(
    folder: Annotated[Path, typer.Argument(help="The folder that runs are in.")] = Path("runs"),
) -> None:
    """List the runs in a folder, newest first, and write index.html, a page that leads to their reports."""
    from finetune.report.pages.runs_index import list_runs, several_tests, write_index

    listed = list_runs(folder)
    width = max(len("run"), *(len(run["name"]) for run in listed))
    figures = [_figure(run) for run in listed]
    wide = max(_MIN_FIGURE_WIDTH, *map(len, figures))
    print(f"{'started':16}  {'run':{width}}  {'figure':{wide}}  {'95 % interval':14}  split  clips  state")
    for run, figure in zip(listed, figures, strict=True):
        print(_line(run, width, f"{figure:{wide}}"))
    if several_tests(listed):
        print("mind: not all figures are of the same test: data, split, number of clips or kind differ")
    print(f"page  {write_index(folder)}")


def _figure(run: Mapping[str, Any]) -> str:
    return "" if run["value"] is None else f"{run['figure']:5} {run['value']:.3f}"


def _line(run: Mapping[str, Any], width: int, figure: str) -> str:
    reach = f"{run['ci'][0]:.3f} to {run['ci'][1]:.3f}" if run["ci"] else ""
    clips = "" if run["clips"] is None else run["clips"]
    state = ": ".join(filter(None, (run["state"], run["todo"] or run["problem"])))
    left = f"{run['started']:16}  {run['name']:{width}}  {figure}  {reach:14}"
    return f"{left}  {run['split'] or '':5}  {clips:5}  {state}"

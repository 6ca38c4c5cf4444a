"""`finetune compare` and `finetune runs`: compare runs, and list the runs in a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune.cli.arguments import SplitName
from finetune.cli.table import print_table
from finetune.cli.wrap import print_wrapped
from finetune.text import count

_MAX_NAME_LENGTH = 60  # characters of a run's name in the file name of the page


def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="RUN", help="Run folders; all are compared with the first.")
    ] = None,
    split: Annotated[SplitName | None, typer.Option(help="Default: the split evaluated after training.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML page. Default: compare-….html next to the first run.")
    ] = None,
) -> None:
    """Test whether runs differ significantly on the clips they share.

    Writes an HTML page.

    Example: finetune compare runs/frozen runs/tuned
    """
    from finetune.report.compare.compare_runs import compare_runs
    from finetune.report.compare.page import write_compare_page

    folders = runs or []
    result = compare_runs(folders, split=split)
    page = out or folders[0].resolve().parent / _page_name(folders)
    write_compare_page(result, page)
    print_wrapped(_table(result))
    for what, todo in result["caveats"]:
        print_wrapped(f"note: {what} {todo}".rstrip())
    print(f"page  {page}")


def _page_name(runs: list[Path]) -> str:
    first, second = (run.resolve().name[:_MAX_NAME_LENGTH] for run in runs[:2])
    return f"compare-{first}-{second}" + f"-and-{len(runs) - 2}-more" * (len(runs) > 2) + ".html"


def _table(result: Mapping[str, Any]) -> str:
    """The runs with their accuracy, then each compared with the first."""
    runs = result["runs"]
    width = max(len("run"), *(len(run["name"]) for run in runs))
    metric = "all labels right" if result["kind"] == "multilabel" else "top-1"
    lines = [f"   {'run':{width}}  {metric} on {result['num_rows']} common {result['split']} clips"]
    for run in runs:
        low, high = run["right_ci"]
        lines.append(
            f"{run['mark']}  {run['name']:{width}}  {run['right']:.3f} (95 % interval {low:.3f} to {high:.3f})"
        )
    for task in result["tasks"]:
        metrics = (f"{run['mark']} {cell['text']}" for run, cell in zip(runs, task["runs"], strict=True) if cell)
        lines.append(f"   {task['name']}: {task['metric']} {', '.join(metrics)}")
    lines.append("")
    for pair in result["pairs"]:
        first, other = (runs[pair[side]]["mark"] for side in ("first", "other"))
        low, high = (100 * end for end in pair["interval"])
        interval = "" if pair["verdict"] == "unsettled" else f" (95 % interval {low:+.1f} to {high:+.1f})"
        lines.append(
            f"{other} against {first}: {pair['words']}; {100 * pair['difference']:+.1f} points{interval}, "
            f"only {first} correct on {count(pair['only_first'], 'clip')}, only {other} on {pair['only_other']}"
        )
    return "\n".join(lines)


def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that contains the runs.")] = Path("runs"),
) -> None:
    """List the runs in a folder, newest first.

    Writes index.html, a page with links to their reports.

    Example: finetune runs runs
    """
    from finetune.report.pages.runs_index import evaluations_differ, list_runs, write_index

    listed = list_runs(folder)
    print_table(
        {
            "started": [run["started"] for run in listed],
            "run": [run["name"] for run in listed],
            "metric": ["" if run["value"] is None else f"{run['metric']:5} {run['value']:.3f}" for run in listed],
            "95 % interval": [f"{run['ci'][0]:.3f} to {run['ci'][1]:.3f}" if run["ci"] else "" for run in listed],
            "split": [run["split"] or "" for run in listed],
            "clips": ["" if run["clips"] is None else run["clips"] for run in listed],
            "state": [": ".join(filter(None, (run["state"], run["todo"] or run["problem"]))) for run in listed],
        },
        right={"clips"},
    )
    if evaluations_differ(listed):
        print_wrapped(
            "note: the runs were not all evaluated alike: data, split, number of clips or kind of task differ"
        )
    print(f"page  {write_index(folder)}")

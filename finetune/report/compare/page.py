"""Write the result of a comparison as an HTML page: templates/compare.html.j2, with sentences from words.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from finetune.errors import RunError
from finetune.report.compare import overlaid_curves
from finetune.report.compare.words import comparison_summary, p_value
from finetune.report.html_page import load_template, page_assets, write_page
from finetune.storage.safe_read import damage_as_run_error

MAX_CHANGED_CLIPS, MAX_RELABELLED = 20, 50  # in a table of the page


def write_compare_page(result: Mapping[str, Any], path: Path) -> None:
    """Write the result of `compare_runs` as a page."""
    with damage_as_run_error(Path(", ".join(str(run["folder"]) for run in result["runs"]))):
        html = _page(result)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(path, html)
    except OSError as error:
        raise RunError(f"{path}: cannot be written: {error.strerror}; choose another file with --out") from None


def _page(result: Mapping[str, Any]) -> str:
    return load_template("compare.html.j2").render(
        result=result,
        runs=result["runs"],
        summary=comparison_summary(result),
        axis_limit=_axis_limit(result["pairs"]),
        curves=_curves(result),
        p_value=p_value,
        dashes=[" ".join(map(str, dash)) for dash in overlaid_curves.DASHES],
        max_changed_clips=MAX_CHANGED_CLIPS,
        max_relabelled=MAX_RELABELLED,
        **page_assets("compare.css"),
    )


def _axis_limit(pairs: Sequence[Mapping[str, Any]]) -> float:
    """The end of the scale of differences, which is symmetric around 0: 0.05 (5 points) to 1."""
    largest = max(abs(end) for pair in pairs for end in (*pair["interval"], pair["difference"]))
    return next(limit for limit in (0.05, 0.1, 0.2, 0.5, 1.0) if largest <= limit)


def _curves(result: Mapping[str, Any]) -> dict[str, Any] | None:
    """The two figures, and the runs without a line in the first; None where no run has epochs."""
    curves = [(run["mark"], run["epochs"]) for run in result["runs"][: overlaid_curves.MAX_LINES]]
    if not any(epochs for _, epochs in curves):
        return None
    key, metric = ("val_map", "mAP") if result["kind"] == "multilabel" else ("val_top1", "Top-1 accuracy")
    figure = overlaid_curves.draw_curves(curves, key, name="curve-metric", metric=metric, is_share=True)
    loss = overlaid_curves.draw_curves(curves, "val_loss", name="curve-loss", metric="Loss", is_share=False)
    without = [run for run in result["runs"] if not any(epoch.get(key) is not None for epoch in run["epochs"])]
    return {"figure": Markup(figure), "loss": Markup(loss), "metric": metric, "without": without}

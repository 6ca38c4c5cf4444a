"""Text of a comparison of runs: the headline sentence, and warnings."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import shorten_list
from finetune.metrics import paired_tests
from finetune.report.words import SPLIT_ADJECTIVES, protocol_rows
from finetune.text import count, percent

_MAX_NAMED_RUNS = 3  # runs with the same verdict in one sentence
_IGNORED_PROTOCOL_KEYS = {"interval"}  # of the metrics in the reports of the runs, not of this comparison


def comparison_summary(result: Mapping[str, Any]) -> str:
    """The headline sentence of a comparison."""
    runs, pairs = result["runs"], result["pairs"]
    test_set = count(result["num_rows"], f"{SPLIT_ADJECTIVES[result['split']]} clip")
    if result["num_groups"] is not None:
        test_set += f" from {count(result['num_groups'], 'group')}"
    if len(pairs) == 1:
        return _two_run_summary(result, test_set)
    by_verdict = {
        verdict: [_quoted(runs[pair["other"]]) for pair in pairs if pair["verdict"] == verdict]
        for verdict in ("other", "first", "none", "unsettled")
    }
    parts = [
        f"{_join_names(by_verdict['other'])} {_is_or_are(by_verdict['other'])} better",
        f"{_join_names(by_verdict['first'])} {_is_or_are(by_verdict['first'])} worse",
        f"there is no evidence of a difference for {_join_names(by_verdict['none'])}",
        f"there are too few test {_unit(result)}s to compare {_join_names(by_verdict['unsettled'])}",
    ]
    shown = [part for part, names in zip(parts, by_verdict.values(), strict=True) if names]
    if len(pairs) == len(by_verdict["none"]):
        shown = [f"there is no evidence of a difference for any of the {len(pairs)} other runs"]
    return f"Compared with {_quoted(runs[0])} on {test_set}, {'; '.join(shown)}."


def _two_run_summary(result: Mapping[str, Any], test_set: str) -> str:
    (first, other), pair = result["runs"], result["pairs"][0]
    low, high = (100 * end for end in pair["interval"])
    metric = "exact match" if result["kind"] == "multilabel" else "top-1 accuracy"
    if pair["verdict"] == "none":
        values = f"{percent(first['right'])} vs. {percent(other['right'])} {metric} on {test_set}"
        difference = paired_tests.format_points(pair["difference"], signed=True)
        interval_text = f"{low:+.1f} to {high:+.1f}".replace("-", "\u2212")
        return (
            f"There is no evidence of a difference between {_quoted(first)} and {_quoted(other)}: {values}, "
            f"difference {difference} (95\u00a0% interval {interval_text})."
        )
    if pair["verdict"] == "unsettled":
        values = f"{percent(other['right'])} vs. {percent(first['right'])} {metric} on {test_set}"
        units = count(pair["num_units"], _unit(result))
        return f"Too few {_unit(result)}s ({units}) to compare {_quoted(other)} with {_quoted(first)}: {values}."
    better, worse = (other, first) if pair["verdict"] == "other" else (first, other)
    low, high = sorted(abs(100 * end) for end in pair["interval"])
    difference = paired_tests.format_points(abs(pair["difference"]))
    return (
        f"{_quoted(better)} is better than {_quoted(worse)} by {difference} "
        f"(95\u00a0% interval {low:.1f} to {high:.1f}): "
        f"{percent(better['right'])} vs. {percent(worse['right'])} {metric} on {test_set}."
    )


def _unit(result: Mapping[str, Any]) -> str:
    """What the intervals are over."""
    return "clip" if result["num_groups"] is None else "group"


def _join_names(names: Sequence[str]) -> str:
    if len(names) > _MAX_NAMED_RUNS:
        return f"{len(names)} of the others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _is_or_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _quoted(run: Mapping[str, Any]) -> str:
    """The name in quotation marks, with direction isolates, so that an Arabic name does not reorder the text."""
    return f"“\u2068{run['name']}\u2069”"


def caveats(result: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(problem, what to do) pairs of everything that weakens a comparison."""
    caveats = [
        *_clip_caveats(result),
        *_class_caveats(result),
        *_protocol_caveats(result, results),
        *_independence_caveats(result),
    ]
    if result["split"] == "train":
        caveats.append(("These are the training clips of the runs.", "Compare them on the test split."))
    return [*caveats, *_selection_caveats(result)]


def _selection_caveats(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    keys = {key for key, _ in result["recipes"]}
    if len(result["runs"]) > 2 and result["split"] == "test" and keys - {"seed"}:
        yield (
            "Picking the best of several runs by their test scores inflates its score.",
            "Choose with --split val, and use the test split only for the chosen run.",
        )


def _clip_caveats(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for run, number in zip(result["runs"], result["left_out"], strict=True):
        if number:
            clips = f"{number:,} of {count(run['num_rows'], 'clip')}"
            yield f"{clips} of {run['mark']} are not compared: not all runs were evaluated on them.", ""
    if relabelled := result["relabelled"]:
        paths = shorten_list([row["path"] for row in relabelled], limit=3)
        yield (
            f"Not compared, because the labels differ between runs: {count(len(relabelled), 'clip')} ({paths}).",
            "Check which label is correct, and train on the same labels.",
        )
    if result["by_name"]:
        yield (
            "The runs have no path in common; clips are matched by parent folder and file name.",
            "Check that these are the same videos.",
        )


def _class_caveats(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    first = result["runs"][0]
    for run in result["runs"][1:]:
        more, fewer = set(run["classes"]) - set(first["classes"]), set(first["classes"]) - set(run["classes"])
        parts = [
            f"{one['mark']} has {count(len(names), 'class', 'classes')} not in {two['mark']}: {_quoted_names(names)}"
            for one, two, names in ((run, first, more), (first, run, fewer))
            if names
        ]
        if parts:
            yield (
                f"{'; '.join(parts)}.",
                "Fewer classes make an easier task: take this into account.",
            )


def _protocol_caveats(result: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    protocols = [run["protocol"] for run in results]
    keys = dict.fromkeys(key for protocol in protocols for key in protocol if key not in _IGNORED_PROTOCOL_KEYS)
    differing = [key for key in keys if len({str(protocol.get(key)) for protocol in protocols}) > 1]
    if not differing:
        return
    parts = []
    for key in differing:
        name = protocol_rows({key: ""})[0][0]
        values = [
            protocol_rows({key: protocol[key]})[0][1] if key in protocol else "not given" for protocol in protocols
        ]
        marks_by_value: dict[str, list[str]] = {}
        for run, value in zip(result["runs"], values, strict=True):
            marks_by_value.setdefault(value, []).append(run["mark"])
        shown = [f"{value} ({', '.join(marks)})" for value, marks in marks_by_value.items()]
        parts.append(f"{name.lower()}: {' or '.join(shown)}")
    yield (
        f"The evaluation protocols differ: {'; '.join(parts)}.",
        "Differences may come from the protocol; evaluate the runs with the same settings.",
    )


def _independence_caveats(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if result["num_groups"] is None:
        yield (
            "There are no groups, so every clip is treated as independent.",
            "If several clips show one person or recording, define groups (data.group_pattern, or a column group).",
        )
    for pair in result["pairs"]:
        if pair["disagrees"]:
            first, other = (result["runs"][pair[side]]["mark"] for side in ("first", "other"))
            yield _disagreement(pair, f"{first} and {other}", grouped=result["num_groups"] is not None)


def _disagreement(pair: Mapping[str, Any], which: str, *, grouped: bool) -> tuple[str, str]:
    shown = f"p = {p_value(pair['adjusted_p'])}".replace("= <", "<")
    result = "no significant" if pair["adjusted_p"] >= paired_tests.SIGNIFICANCE_LEVEL else "a significant"
    problem = f"McNemar's test finds {result} difference between {which} ({shown}), but the interval disagrees."
    if grouped:
        return problem, "The test treats clips of a group as independent, which they are not: rely on the interval."
    return problem, "The result is borderline: test on more clips."


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _quoted_names(names: Iterable[str]) -> str:
    return shorten_list([f"“\u2068{name}\u2069”" for name in sorted(names)])

"""Say in words what a comparison of runs found, and what weakens it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import shorten_list
from finetune.metrics import paired_tests as paired
from finetune.report.words import protocol_rows
from finetune.text import count, percent

_MAX_NAMED_RUNS = 3  # runs with the same verdict in one sentence
_IGNORED_PROTOCOL_KEYS = {"interval"}  # of the figures in the run's own report, not of those compared here


def answer(result: Mapping[str, Any]) -> str:
    """The comparison in a sentence."""
    runs, pairs = result["runs"], result["pairs"]
    what = count(result["num_rows"], f"{result['split']} clip")
    if result["num_groups"] is not None:
        what += f" of {count(result['num_groups'], 'group')}"
    if len(pairs) == 1:
        return _two_run_verdict(result, what)
    by_verdict = {
        verdict: [_quoted(runs[pair["other"]]) for pair in pairs if pair["verdict"] == verdict]
        for verdict in ("other", "first", "none", "unsettled")
    }
    parts = [
        f"{_join_names(by_verdict['other'])} {_is_or_are(by_verdict['other'])} better",
        f"{_join_names(by_verdict['first'])} {_is_or_are(by_verdict['first'])} worse",
        f"there is no evidence of a difference for {_join_names(by_verdict['none'])}",
        f"it cannot be settled for {_join_names(by_verdict['unsettled'])}",
    ]
    said = [part for part, named in zip(parts, by_verdict.values(), strict=True) if named]
    if len(pairs) == len(by_verdict["none"]):
        said = [f"none of the {len(pairs)} other runs is shown to be better or worse"]
    return f"Compared with {_quoted(runs[0])} on {what}, {'; '.join(said)}."


def _two_run_verdict(result: Mapping[str, Any], what: str) -> str:
    (first, other), pair = result["runs"], result["pairs"][0]
    low, high = (100 * end for end in pair["interval"])
    figures = f"{percent(other['right'])} against {percent(first['right'])} right"
    difference = paired.points(pair["difference"], signed=True)
    reach = f"the difference is {difference}, 95\u00a0% interval {low:+.1f} to {high:+.1f}".replace("-", "\u2212")
    if pair["verdict"] == "none":
        told = f"there is no evidence of a difference between {_quoted(first)} and {_quoted(other)}"
        in_turn = f"{percent(first['right'])} against {percent(other['right'])}"  # as the names stand
        return f"On {what} {told}: {in_turn}; {reach}."
    if pair["verdict"] == "unsettled":
        units = count(pair["num_units"], "clip" if result["num_groups"] is None else "group")
        return f"{units} cannot settle whether {_quoted(other)} is better than {_quoted(first)}: {figures} on {what}."
    better, worse = (other, first) if pair["verdict"] == "other" else (first, other)
    low, high = sorted(abs(100 * end) for end in pair["interval"])
    by = paired.points(abs(pair["difference"]))
    return (
        f"{_quoted(better)} is better than {_quoted(worse)} by {by} (95\u00a0% interval {low:.1f} to {high:.1f}): "
        f"{percent(better['right'])} against {percent(worse['right'])} right on {what}."
    )


def _join_names(names: Sequence[str]) -> str:
    if len(names) > _MAX_NAMED_RUNS:
        return f"{len(names)} of the others"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _is_or_are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _quoted(run: Mapping[str, Any]) -> str:
    """Set apart, so that an Arabic name does not turn its neighbours round."""
    return f"“\u2068{run['name']}\u2069”"


def caveats(result: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(what, what to do): all that a reader should know before believing a comparison."""
    found = [
        *_clip_caveats(result),
        *_class_caveats(result),
        *_protocol_caveats(result, results),
        *_independence_caveats(result),
    ]
    if result["split"] == "train":
        found.append(("The runs learned from these clips.", "Compare them on the test split."))
    return [*found, *_selection_caveats(result)]


def _selection_caveats(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    keys = {key for key, _ in result["recipes"]}
    if len(result["runs"]) > 2 and result["split"] == "test" and keys - {"seed"}:
        yield (
            "Whoever picks the best of these by the test clips no longer has a test.",
            "Choose with --split val, and read the test of the chosen one.",
        )


def _clip_caveats(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for run, number in zip(result["runs"], result["left_out"], strict=True):
        if number:
            clips = f"{number:,} of {count(run['num_rows'], 'clip')}"
            yield f"{clips} of {run['mark']} are left out here: not all runs were tested on them.", ""
    if relabelled := result["relabelled"]:
        paths = shorten_list([row["path"] for row in relabelled], limit=3)
        yield (
            f"{count(len(relabelled), 'clip')} labelled differently by these runs, so not counted: {paths}.",
            "See which label is right, and train on the same labels.",
        )
    if result["by_name"]:
        yield (
            "The runs have no path in common, so clips are matched by the last folder and the file name.",
            "Make sure that these are the same videos.",
        )


def _class_caveats(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    first = result["runs"][0]
    for run in result["runs"][1:]:
        more, fewer = set(run["classes"]) - set(first["classes"]), set(first["classes"]) - set(run["classes"])
        parts = [
            f"{one['mark']} knows {count(len(names), 'class', 'classes')} that {two['mark']} does not: {_names(names)}"
            for one, two, names in ((run, first, more), (first, run, fewer))
            if names
        ]
        if parts:
            yield (
                f"{'; '.join(parts)}.",
                "Fewer classes make an easier task: read the difference so.",
            )


def _protocol_caveats(result: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    protocols = [each["protocol"] for each in results]
    keys = dict.fromkeys(key for protocol in protocols for key in protocol if key not in _IGNORED_PROTOCOL_KEYS)
    differing = [key for key in keys if len({str(protocol.get(key)) for protocol in protocols}) > 1]
    if not differing:
        return
    parts = []
    for key in differing:
        name = protocol_rows({key: ""})[0][0]
        values = [protocol_rows({key: each[key]})[0][1] if key in each else "not given" for each in protocols]
        of_value: dict[str, list[str]] = {}
        for run, value in zip(result["runs"], values, strict=True):
            of_value.setdefault(value, []).append(run["mark"])
        told = [f"{value} ({', '.join(marks)})" for value, marks in of_value.items()]
        parts.append(f"{name.lower()} {' or '.join(told)}")
    yield (
        f"The runs were not measured in the same way: {'; '.join(parts)}.",
        "What differs may come from that, and not from what was learned.",
    )


def _independence_caveats(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if result["num_groups"] is None:
        yield (
            "No groups are known, so every clip counts as independent.",
            "Name groups (data.group_pattern, or a column group) if several clips come from one person or recording.",
        )
    for pair in result["pairs"]:
        if pair["disagrees"]:
            first, other = (result["runs"][pair[side]]["mark"] for side in ("first", "other"))
            yield _disagreement(pair, f"{first} and {other}", grouped=result["num_groups"] is not None)


def _disagreement(pair: Mapping[str, Any], which: str, *, grouped: bool) -> tuple[str, str]:
    shown = f"p = {p_value(pair['adjusted_p'])}".replace("= <", "<")
    sees = "no difference" if pair["adjusted_p"] >= paired.SIGNIFICANCE_LEVEL else "a difference"
    what = f"McNemar's test sees {sees} between {which} ({shown}), the interval disagrees."
    if grouped:
        return what, "The test takes clips of a group for independent, which they are not: the interval counts."
    return what, "It is a close call: test on more clips."


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _names(names: Iterable[str]) -> str:
    return shorten_list([f"“\u2068{name}\u2069”" for name in sorted(names)])

"""The sections of a model card as Markdown lines, computed from the run; a section that knows nothing is empty."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.errors import shorten_list
from finetune.export.int8_cost import describe_cost
from finetune.export.readme import usage as exported_usage
from finetune.model.backbone.weights_source import WeightsSource, describe_source, licence_warning
from finetune.publish.card_facts import CardFacts
from finetune.recipe.load import recipe_yaml
from finetune.recipe.own_parts import own_parts, part_name
from finetune.recipe.public_recipe import public_recipe
from finetune.recipe.schema import Phase
from finetune.recipe.tasks import CLASSIFICATION_KINDS, OutputSpec
from finetune.report import words
from finetune.report.headline_text import task_rows
from finetune.report.run.changed_settings import recipe_changes
from finetune.report.run.markdown import class_lines, escape_markdown, headline_lines, protocol_lines, timeline_lines
from finetune.report.run.task_section import task_context
from finetune.report.run.task_words import METRICS, regression_warnings
from finetune.run.results import Results
from finetune.text import count

MAX_LISTED_CLASSES = 100
_ADDRESS = re.compile(r"https://[\w.-]+(/[\w.~%+/-]*)?")  # shown as a link
MIN_TRAINING_CLIPS = 20  # of a class; with fewer it is listed as rare
_SAMPLING = {
    "segments": "one from each of {frames} equal segments of the video",
    "dense": "in a row, {stride} apart, from the middle of the video",
    "uniform": "evenly spaced from the first frame to the last",
    "around": "{stride} apart, around the middle frame of the video",
    "fps": "in a row at {fps:g} frames per second, from the middle of the video",
}


def plain(text: str) -> str:
    """Text in a sentence, with every character that Markdown or HTML would read escaped."""
    return escape_markdown(text, as_code=False)


def description(facts: CardFacts) -> list[str]:
    """What the model predicts, and from what."""
    recipe, clip = facts.recipe, facts.recipe.clip
    sentences = [_task_sentence(output) for output in facts.outputs.values()]
    if facts.is_multitask:
        lines = ["This model looks at a short video and predicts, for each clip:", ""]
        lines += [f"- {escape_markdown(name)}: {text}." for name, text in zip(facts.outputs, sentences, strict=True)]
    else:
        lines = [f"This model looks at a short video and predicts {sentences[0]}."]
    stride = count(clip.frame_stride, "frame")
    chosen = _SAMPLING[clip.sampling].format(frames=clip.num_frames, stride=stride, fps=clip.fps or 0)
    size = f", at {clip.size} x {clip.size} pixels" if clip.size else ""
    lines += ["", f"It reads {count(clip.num_frames, 'frame')} of a clip: {chosen}{size}."]
    if recipe.evaluate.views > 1:
        lines[-1] += f" {recipe.evaluate.views} such views of each clip are combined."
    own = {key: part_name(part) for key, part in own_parts(recipe).items() if key.startswith("model.")}
    if own:
        named = ", ".join(f"{key} {escape_markdown(name)}" for key, name in own.items())
        lines += ["", f"Parts of the network are code that is not published with this model: {named}."]
    return lines


def _task_sentence(output: OutputSpec) -> str:
    number = count(len(output.names), "class", "classes")
    return {
        "classify": f"one of {number}",
        "multilabel": f"which of {number} it shows: several, one or none",
        "ordinal": f"one of {count(len(output.names), 'ordered level')}",
        "box": "the box of one object in the middle frame: left, top, width and height in pixels of the video",
        "motion": "the motion of one object in pixels per frame, to the right and down",
        "regress": f"{count(len(output.names), 'number')}: {', '.join(map(plain, output.names))}",
        "detect": f"boxes of objects of {number} in a frame",
        "track": f"boxes of objects of {number} in a frame, and the motion of each",
        "segment": f"one of {number} for each pixel of a frame",
    }[output.kind]


def classes(facts: CardFacts) -> list[str]:
    """The names of the classes of each task, in the order of the outputs."""
    lines = []
    for task, output in facts.outputs.items():
        if not output.is_categorical:
            continue
        prefix = f"{escape_markdown(task)}: " if facts.is_multitask else ""
        names = ", ".join(map(escape_markdown, output.names[:MAX_LISTED_CLASSES]))
        left = len(output.names) - MAX_LISTED_CLASSES
        lines += [f"{prefix}{names}{f' and {left} more' if left > 0 else ''}", ""]
    return lines[:-1]


def results(facts: CardFacts) -> list[str]:
    """Headline, metrics with intervals, confusions, classes and protocol; of an exported model alone, its figures."""
    if facts.results is None:
        return _exported_figures(facts) or ["This model has not been evaluated."]
    tasks = [task_context(name, facts.results, []) for name in facts.results["tasks"]]
    lines = headline_lines(facts.results, tasks, task_rows(facts.results, []))[:-1]  # the last is empty
    lines += [*timeline_lines(facts.results), *class_lines(tasks), "", *protocol_lines(_public_results(facts.results))]
    if facts.exported is not None:
        lines += ["", *_parity(facts)]
    return lines


def _public_results(results: Results) -> Results:
    """The results without the path of the pack that the clips were read from."""
    protocol = dict(results["protocol"])
    if str(protocol.get("decoder", "")).startswith("the pack "):
        protocol["decoder"] = "a pack of frames"
    return {**results, "protocol": protocol}


def _exported_figures(facts: CardFacts) -> list[str]:
    figures = None if facts.exported is None else facts.exported.get("figures")
    if not figures:
        return []
    lines = [f"On {count(figures['clips'], figures['split'] + ' clip')}:", ""]
    lines += ["| task | metric | value | 95 % interval |", "|---|---|---|---|"]
    names = dict(words.METRIC_NAMES) | {metric.key: metric.name for kind in METRICS.values() for metric in kind}
    for task, metrics in figures["tasks"].items():
        for key, metric in metrics.items():
            ends = metric["interval"]
            interval = f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "unknown"
            name = plain(names.get(key, key))
            lines.append(f"| {escape_markdown(task)} | {name} | {metric['value']:.3f} | {interval} |")
    return [*lines, "", *_parity(facts)]


def _parity(facts: CardFacts) -> list[str]:
    """How the files of an exported model relate to the figures of its run, and what int8 costs."""
    assert facts.exported is not None
    runtime, precision = facts.exported["runtime"], facts.exported["precision"]
    of_int8 = facts.exported.get("int8")
    text = f"These are figures of the run, measured with PyTorch. The files here are for {runtime} at {precision}"
    text += ", weights and activations as int8" if of_int8 else ""
    parity = facts.exported.get("parity")
    if parity and parity["split"]:
        split = parity["split"]
        different = sum(map(len, split["different"].values()))
        clips = count(split["clips"], f"{split['split']} clip")
        total = split["clips"] * len(split["different"])
        text += f"; on {clips}, {different:,} of {count(total, 'prediction')} differ from the run's"
    costs = [f"- {plain(describe_cost(task, cost))}" for task, cost in of_int8["cost"].items()] if of_int8 else []
    return [f"{text}.", *(["", "With int8, compared clip by clip:", "", *costs] if costs else [])]


def split(facts: CardFacts) -> list[str]:
    """How many clips and groups each split has, and whether groups are whole in one."""
    if facts.num_folds:
        folds = (facts.results or {}).get("protocol", {}).get("cross_validation", "")
        text = f"Cross-validation: {plain(str(folds))}." if folds else "Cross-validation."
        return [f"{text} Each clip was tested once, by a model that was not trained on it."]
    splits, groups = facts.rows.get("split", []), facts.rows.get("group", [])
    if not splits:
        return []
    sizes, lines = Counter(splits), ["| split | clips | groups |", "|---|---|---|"]
    members = {name: {group for group, of in zip(groups, splits, strict=False) if of == name} - {""} for name in sizes}
    for name in ("train", "val", "test"):
        if sizes[name]:
            lines.append(f"| {name} | {sizes[name]:,} | {len(members[name]) or '–'} |")
    return [*lines, "", _group_sentence(members), _seed_sentence(facts)]


def _group_sentence(members: Mapping[str, set[str]]) -> str:
    if not any(members.values()):
        return "No groups are known: clips of one person or one recording may be in several splits."
    names = [group for groups in members.values() for group in groups]
    shared = sum(number > 1 for number in Counter(names).values())
    if shared:
        verb = "is" if shared == 1 else "are"
        return f"{count(shared, 'group')} {verb} in more than one split, so that the results may be too good."
    return "A group is what belongs together, such as one person or one recording; each is in one split alone."


def _seed_sentence(facts: CardFacts) -> str:
    data = facts.recipe.data
    val, test = words.whole_percent(data.val), words.whole_percent(data.test)
    return (
        f"Clips for which the data names no split are divided at random with seed {facts.recipe.seed}: "
        f"{test} for test, {val} for validation."
    )


def intended_use(facts: CardFacts) -> list[str]:
    """What the model is for, and what it cannot answer."""
    lines = ["Short videos like those that it was trained on: the same kinds of scenes, cameras and actions."]
    kinds = {output.kind for output in facts.outputs.values()}
    background = facts.recipe.data.background
    if background is not None and "classify" in kinds:
        lines.append(f"The class {escape_markdown(background)} stands for none of the others.")
    elif kinds & {"classify", "ordinal"}:
        lines.append("Each clip gets one of the classes, also a clip that shows none of them.")
    if kinds & {"box", "motion"}:
        lines.append("Boxes and motion are of one object in each clip, also where there are none or several.")
    return lines


def limits(facts: CardFacts) -> list[str]:
    """What is weak about the model or unknown, as far as the saved results show it."""
    lines = [*_result_limits(facts), *_calibration_limits(facts), *_rare_classes(facts)]
    return [f"- {line}" for line in lines]


def _result_limits(facts: CardFacts) -> Iterator[str]:
    if facts.results is None:
        return
    for problem, _ in [*words.evaluation_warnings(facts.results, []), *regression_warnings(facts.results)]:
        yield plain(problem)
    if not facts.num_folds:
        yield "The figures are of one training run; another seed gives others."
    else:
        yield "The figures are of several models, each trained on a part of the clips, and not of any one of them."
    yield "The figures are of clips from the data set that it was trained on; clips of another source may be harder."


def _calibration_limits(facts: CardFacts) -> Iterator[str]:
    tasks: Mapping[str, Mapping[str, Any]] = (facts.exported or facts.results or {}).get("tasks", {})
    for name, output in facts.outputs.items():
        if output.kind not in CLASSIFICATION_KINDS or name not in tasks:
            continue
        of_task = f" of {escape_markdown(name)}" if facts.is_multitask else ""
        temperature = tasks[name].get("temperature")
        if temperature is None:
            yield f"Probabilities{of_task} are not calibrated."
        elif facts.exported is not None:
            fitted = f"a temperature of {temperature:.3g}, fitted on validation clips"
            yield f"Probabilities{of_task} that the exported model gives are calibrated with {fitted}."
        else:
            yield (
                f"Probabilities{of_task} are calibrated only with --calibrated: a temperature of {temperature:.3g}, "
                "fitted on validation clips."
            )


def _rare_classes(facts: CardFacts) -> Iterator[str]:
    counts = (facts.results or {}).get("class_counts", {}).get("train", {})
    rare = [f"{escape_markdown(name)} ({number})" for name, number in counts.items() if number < MIN_TRAINING_CLIPS]
    if rare:
        yield f"Classes with fewer than {MIN_TRAINING_CLIPS} training clips: {shorten_list(rare)}."


def licence(facts: CardFacts, chosen: str | None) -> list[str]:
    """The source and the licence of the pretrained weights, with a warning where they are for research only.

    `chosen` is the licence that the publisher gives the model.
    """
    own = [] if chosen is None else [f"Its publisher gives the licence {escape_markdown(chosen)} to this model.", ""]
    if facts.weights is None:
        return [*own, "The source and the licence of the pretrained weights were not recorded."]
    source, url = facts.weights, facts.weights.get("url", "")
    if _ADDRESS.fullmatch(url):
        without_url: WeightsSource = {key: value for key, value in source.items() if key != "url"}  # type: ignore[assignment]
        lines = [f"{plain(describe_source(without_url))} Published at <{url}>."]
    else:
        lines = [plain(describe_source(source))]
    if origin := facts.weights.get("origin"):
        lines.append(f"They come from {plain(origin)}.")
    if note := facts.weights.get("note"):
        lines.append(plain(note))
    if warning := licence_warning(facts.weights):
        lines = [f"**{plain(warning[0])}** {plain(warning[1])}", "", *lines]
    return [*own, *lines, "The licence of the training videos is not recorded."]


def usage(facts: CardFacts, repo: str) -> list[str]:
    """Commands and Python code that predict videos with the published model."""
    model_parts = [key for key in own_parts(facts.recipe) if key.startswith("model.")]
    options = "".join(f" --part {key}=MODULE:NAME" for key in model_parts)
    if facts.num_folds:
        return ["A cross-validation has no one model; publish one of its runs, or train on all clips."]
    lines = ["```bash", f"finetune predict hf://{repo} video.mp4{options}", "```"]
    if not model_parts:
        lines += ["", "```python", "import finetune", ""]
        lines += [f'for prediction in finetune.predict("hf://{repo}", ["video.mp4"]):', "    print(prediction)", "```"]
    if facts.exported is not None:
        lines += ["", *exported_usage(facts.exported).replace("## Use\n", "Without finetune:\n", 1).splitlines()]
    return lines


def training(facts: CardFacts) -> list[str]:
    """The phases, and the settings that differ from the defaults, without places on the disk."""
    lines = []
    if isinstance(facts.recipe.phases, Sequence):
        lines = ["| phase | trains | length | learning rate |", "|---|---|---|---|"]
        lines += [_phase_row(number, phase) for number, phase in enumerate(facts.recipe.phases, 1)]
    recipe = recipe_yaml(public_recipe(facts.recipe))
    changes = [change for change in recipe_changes(recipe) if not change.key.startswith(("phases", "tasks"))]
    if changes:
        lines += ["", "| setting | value | default |", "|---|---|---|"]
        lines += [f"| {' | '.join(escape_markdown(text) for text in change)} |" for change in changes]
    return lines


def _phase_row(number: int, phase: Phase) -> str:
    unfreeze = ", ".join(phase.unfreeze) if isinstance(phase.unfreeze, tuple) else str(phase.unfreeze)
    length = count(phase.steps, "step") if phase.steps else count(phase.num_epochs(1), "epoch")
    return f"| {number} | {plain(unfreeze)} | {length} | {phase.lr:g} |"

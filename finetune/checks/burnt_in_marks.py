"""Find burnt-in marks that give classes away, such as a logo, a clock or a border.

Clips are compared by the static edges of three frames. An area is a candidate where the groups of a class share edges
that other classes lack. It is reported where it predicts the class of clips of held-out groups.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune.checks.burnt_in_finding import Mark, MarkPlace, named_place
from finetune.checks.held_out_accuracy import (
    EdgeSample,
    class_means,
    edges_shared_by_classes,
    held_out_predictions,
    permutation_p_value,
)
from finetune.checks.rows import Rows
from finetune.checks.shared_edges import Box, GroupEdges, SharedParts, group_edges, shared_parts, template_scores
from finetune.errors import VideoError
from finetune.video.encode import encode_jpeg
from finetune.video.probe_files import FileInspection
from finetune.video.still_edges import WHOLE_FRAME, Window, mean_picture, still_edges

MIN_GROUPS = 3  # of a class, to search it for marks
MAX_CLIPS, MIN_PER_CLASS, MAX_PER_CLASS = 1200, 6, 60  # clips that are compared, in all and of each class
# Recall minus false positive rate.
MIN_EXCESS, MIN_EXCESS_SAME_SCENE = 0.5, 0.75
MAX_P_VALUE = 0.05
MAX_MARKS = 8
_GRID, _CORNER_GRID = (96, 128), (96, 96)  # rows, columns
_MAX_GAP = 0.03  # between two areas of one mark, as a share of the picture
_MIN_OVERLAP, _MIN_SIMILARITY = 0.3, 0.6  # of two classes' areas, to count as one mark


@dataclass(frozen=True, eq=False)
class _Clips:
    """The clips that are compared, with their classes in one task and their groups, as arrays of names (N,)."""

    task: str
    rows: list[int]
    inspections: list[FileInspection]
    classes: np.ndarray
    groups: np.ndarray
    grouped: bool


@dataclass(frozen=True, eq=False)
class _Anchor:
    """A point that marks are measured from, and for each clip the window of its picture that the grid covers."""

    name: str
    grid: tuple[int, int]
    windows: list[Window]


def rows_to_compare(rows: Rows) -> list[int]:
    """Rows whose frames `find_marks` needs: a bounded number of each class, spread over its groups."""
    chosen: set[int] = set()
    for classes in _classes_by_task(rows).values():
        by_class: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for row, name in enumerate(classes):
            if name:
                by_class[name][rows.group_or_file(row)].append(row)
        if len(by_class) > 1 and any(len(groups) >= MIN_GROUPS for groups in by_class.values()):
            limit = min(MAX_PER_CLASS, max(MIN_PER_CLASS, MAX_CLIPS // len(by_class)))
            for groups in by_class.values():
                round_robin = itertools.chain.from_iterable(itertools.zip_longest(*groups.values()))
                chosen.update(itertools.islice((row for row in round_robin if row is not None), limit))
    return sorted(chosen)


def find_marks(rows: Rows, inspections: Sequence[FileInspection | VideoError]) -> list[Mark]:
    """Marks that give classes away, by falling balanced accuracy. Only inspections with grey frames are compared."""
    marks = []
    for task, classes in _classes_by_task(rows).items():
        clips = _clips(rows, inspections, task, classes)
        if len(set(clips.classes)) > 1:
            marks += [mark for anchor in _anchors(clips.inspections) for mark in _marks_at(anchor, clips)]
    distinct: list[Mark] = []
    for mark in sorted(marks, key=lambda mark: -mark.balanced_accuracy):
        if not any(_are_same_mark(mark, other) for other in distinct):
            distinct.append(mark)
    return distinct[:MAX_MARKS]


def _classes_by_task(rows: Rows) -> dict[str, list[str]]:
    """For each task the class of each row, of a multi-label row its list of classes; empty where it has no label."""
    return {
        task: [labels.text(row)[0] if labels.known[row] else "" for row in range(len(rows))]
        for task, labels in rows.named_tasks.items()
    }


def _clips(rows: Rows, inspections: Sequence[FileInspection | VideoError], task: str, classes: Sequence[str]) -> _Clips:
    compared = [
        (row, inspection)
        for row, inspection in enumerate(inspections)
        if not isinstance(inspection, VideoError) and inspection.grey_3HW is not None and classes[row]
    ]
    return _Clips(
        task,
        [row for row, _ in compared],
        [inspection for _, inspection in compared],
        np.array([classes[row] for row, _ in compared]),
        np.array([rows.group_or_file(row) for row, _ in compared]),
        any(rows.groups),
    )


def _anchors(inspections: Sequence[FileInspection]) -> Iterator[_Anchor]:
    """The whole picture, and, for clips of several sizes, its corners.

    The distance of a mark from a corner may be the same in pixels, or in proportion to the picture's shorter side.
    """
    sizes = [_size(inspection) for inspection in inspections]
    is_portrait = np.median([width / height for height, width in sizes]) < 1
    yield _Anchor("whole picture", _GRID[::-1] if is_portrait else _GRID, [WHOLE_FRAME] * len(inspections))
    sides: dict[str, list[float]] = {}
    if len({(round(height), round(width)) for height, width in sizes}) > 1:
        sides["in pixels"] = [min(map(min, sizes))] * len(sizes)
    if len({round(width / height, 2) for height, width in sizes}) > 1:
        sides["by the shorter side"] = [min(size) for size in sizes]
    for (name, lengths), bottom, right in itertools.product(sides.items(), (False, True), (False, True)):
        shares = [(length / width, length / height) for length, (height, width) in zip(lengths, sizes, strict=True)]
        windows = [(right * (1 - x), bottom * (1 - y), 1 if right else x, 1 if bottom else y) for x, y in shares]
        corner = f"{'lower' if bottom else 'upper'} {'right' if right else 'left'} corner"
        yield _Anchor(f"{corner}, {name}", _CORNER_GRID, windows)


def _size(inspection: FileInspection) -> tuple[float, float]:
    """(height, width) of the displayed picture in pixels of the file."""
    assert inspection.grey_3HW is not None
    height, width = inspection.grey_3HW.shape[1:]
    scale = max(inspection.info.height, inspection.info.width) / max(height, width)
    return height * scale, width * scale


def _marks_at(anchor: _Anchor, clips: _Clips) -> Iterator[Mark]:
    """Marks by signed and by unsigned edges: signed ones of moving content cancel, unsigned ones keep grey marks."""
    fields = [
        still_edges(inspection.grey_3HW, window=window, grid=anchor.grid)
        for inspection, window in zip(clips.inspections, anchor.windows, strict=True)
        if inspection.grey_3HW is not None
    ]
    for fields_N2HW in np.stack(fields, axis=1):
        yield from _marks_in(EdgeSample(fields_N2HW, clips.classes, clips.groups), anchor, clips)


def _marks_in(sample: EdgeSample, anchor: _Anchor, clips: _Clips) -> Iterator[Mark]:
    sets = _sets_of_classes(sample)
    if not sets:
        return
    predicted_SN = held_out_predictions(sample, [classes for classes, _ in sets])
    for (classes, min_excess), predicted_N in zip(sets, predicted_SN, strict=True):
        is_one = np.isin(clips.classes, classes)
        found, mistaken = float(predicted_N[is_one].mean()), float(predicted_N[~is_one].mean())
        if found - mistaken >= min_excess and permutation_p_value(predicted_N, sample, classes) <= MAX_P_VALUE:
            yield from _mark(anchor, clips, sample, classes, (found, mistaken))


def _sets_of_classes(sample: EdgeSample) -> list[tuple[list[str], float]]:
    """Sets of classes that may share a mark, smallest first, each with the minimum of recall - false positive rate."""
    names = np.unique(sample.classes_N).tolist()
    edges = {name: group_edges(sample.means(sample.classes_N == name)) for name in names}
    parts = {}
    for name, class_edges in edges.items():
        if class_edges.groups >= MIN_GROUPS:
            shared = shared_parts(class_edges, [other.mean_2HW for key, other in edges.items() if key != name])
            if shared.boxes:
                parts[name] = shared
    sets: list[list[str]] = []
    for name in parts:
        same = next((classes for classes in sets if _share_a_mark((name, classes[0]), edges, parts)), None)
        sets.append([name]) if same is None else same.append(name)
    sets = sorted((classes for classes in sets if len(classes) < len(names)), key=len)
    return [
        (classes, max(_min_excess(parts[name]) for name in classes))
        for number, classes in enumerate(sets)
        # Where all classes show one scene, a mark hides part of it, so the classes without the mark seem to share a
        # mark.
        if not (parts[classes[0]].one_scene and sorted({*names} - {*classes}) in map(sorted, sets[:number]))
    ]


def _share_a_mark(two: tuple[str, str], edges: dict[str, GroupEdges], parts: dict[str, SharedParts]) -> bool:
    """Whether the areas of two classes overlap and have the same edges there."""
    masks = [parts[name].mask_HW for name in two]
    both_HW = masks[0] & masks[1]
    if both_HW.sum() < _MIN_OVERLAP * min(masks[0].sum(), masks[1].sum()):
        return False
    one, other = (edges[name].mean_2HW[:, both_HW] for name in two)
    return bool((one * other).sum() > _MIN_SIMILARITY * np.sqrt((one**2).sum() * (other**2).sum()))


def _min_excess(part: SharedParts) -> float:
    """More where the scene is the same, as then a filmed object can be in one place by chance."""
    return MIN_EXCESS_SAME_SCENE if part.one_scene or part.kind == "background" else MIN_EXCESS


def _mark(
    anchor: _Anchor, clips: _Clips, sample: EdgeSample, classes: Sequence[str], found_and_mistaken: tuple[float, float]
) -> Iterator[Mark]:
    """The mark as found in all groups together; nothing where they share no area."""
    edges, shared = edges_shared_by_classes(sample, classes, class_means(sample))
    if not shared.boxes:
        return
    is_one = np.isin(sample.classes_N, classes)
    values = np.where(is_one, template_scores(sample.fields_N2HW, edges.mean_2HW * shared.mask_HW), -np.inf)
    marked = np.flatnonzero(values > values.max() / 2).tolist()  # positions of clips with the mark
    example = _pick_example([_size(clips.inspections[clip]) for clip in marked], values[marked], marked)
    found, mistaken = found_and_mistaken
    yield Mark(
        task=clips.task,
        kind=shared.kind,
        classes=tuple(sorted(classes)),
        places=tuple(_place(box, anchor.grid, anchor.windows[example]) for box in shared.boxes),
        anchor=anchor.name,
        found=round(found, 4),
        mistaken=round(mistaken, 4),
        grouped=clips.grouped,
        groups=edges.groups,
        clips=int(is_one.sum()),
        example=clips.rows[example],
        mean_jpeg=_mean_jpeg(anchor, {clip: clips.inspections[clip].middle_jpeg for clip in marked}, shared.boxes),
    )


def _pick_example(sizes: Sequence[tuple[float, float]], values: np.ndarray, numbers: Sequence[int]) -> int:
    """The clip nearest to the median aspect ratio, so that marks with different anchors share an example."""
    shapes = np.log([width / height for height, width in sizes])
    return numbers[int(np.lexsort((-values, np.abs(shapes - np.median(shapes)).round(3)))[0])]


def _place(box: Box, grid: tuple[int, int], window: Window) -> MarkPlace:
    left, top, right, bottom = window
    across, down = (right - left) / grid[1], (bottom - top) / grid[0]
    return named_place(left + box[0] * across, top + box[1] * down, box[2] * across, box[3] * down)


def _mean_jpeg(anchor: _Anchor, jpegs: Mapping[int, bytes], boxes: Sequence[Box]) -> bytes:
    """The boxes and their surroundings, averaged over clips, by their number, at twice the grid's resolution."""
    rows, columns = grid = anchor.grid
    windows = [anchor.windows[number] for number in jpegs]
    picture_3HW = mean_picture(list(jpegs.values()), windows, grid=(2 * rows, 2 * columns))
    margin = 8
    left, top = (max(0, min(box[side] for box in boxes) - margin) for side in (0, 1))
    right, bottom = (min(grid[1 - side], max(box[side] + box[side + 2] for box in boxes) + margin) for side in (0, 1))
    return encode_jpeg(picture_3HW[:, 2 * top : 2 * bottom, 2 * left : 2 * right])


def _are_same_mark(mark: Mark, other: Mark) -> bool:
    """Whether two marks with different anchors are the same: they share a class and an area."""
    alike = mark.task == other.task and not set(mark.classes).isdisjoint(other.classes)
    return alike and any(_overlap(one.box, two.box) for one in mark.places for two in other.places)


def _overlap(one: Sequence[float], two: Sequence[float]) -> bool:
    """Whether two boxes overlap or lie side by side."""
    return all(
        one[side] < two[side] + two[side + 2] + _MAX_GAP and two[side] < one[side] + one[side + 2] + _MAX_GAP
        for side in (0, 1)
    )

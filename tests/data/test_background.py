"""Background rows lie in the unlabelled time of recordings, have labelled lengths, and follow from the seed."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.background import Background, add_background
from finetune.data.manifest import Manifest
from finetune.errors import DataError
from finetune.recipe.tasks import Task

NOTHING = Background("nothing", 0.4, 0.5, seed=1)


def make(folder, rows, header="path,start,end,label,split,group", **options):
    text = "\n".join([header, *(",".join(map(str, row)) for row in rows)])
    (folder / "clips.csv").write_text(f"{text}\n", encoding="utf-8")
    return Manifest.from_csv(folder / "clips.csv", packed=True, **options)


def durations(manifest, seconds=100.0):
    return dict.fromkeys(manifest.paths.tolist(), seconds)


@pytest.fixture
def manifest(tmp_path):
    rows = [
        (f"{file}.mp4", start, start + length, "xy"[n % 2], "train" if file < 4 else "test", f"g{file}")
        for file in range(6)
        for n, (start, length) in enumerate([(10, 2), (20, 3), (40, 2), (41, 4)])
    ]
    return make(tmp_path, rows)


def test_they_have_the_share_the_lengths_the_split_and_the_group_of_their_recordings(manifest):
    with_background = add_background(manifest, NOTHING, durations(manifest))
    assert with_background.classes == ("nothing", "x", "y")
    assert with_background.counts("train") == {"nothing": 11, "x": 8, "y": 8}
    assert with_background.counts("test") == {"nothing": 5, "x": 4, "y": 4}
    for row in range(len(manifest), len(with_background)):
        start, end = with_background.interval(row)
        assert round(end - start, 3) in {2, 3, 4}
        recording = manifest.path(0).parent / with_background.path(row).name
        first = next(n for n in range(len(manifest)) if manifest.path(n) == recording)
        assert with_background.splits[row] == manifest.splits[first]
        assert with_background.groups[row] == manifest.groups[first]
        for labelled in np.flatnonzero(manifest.paths == with_background.paths[row]):
            assert end <= manifest.interval(labelled)[0] - 0.5 or start >= manifest.interval(labelled)[1] + 0.5
    assert with_background.notes[-1] == "16 rows of the class nothing drawn from unlabelled time"


def test_they_follow_from_the_seed_and_not_from_the_order_of_rows(manifest):
    def drawn(rows, seed):
        whole = add_background(rows, replace(NOTHING, seed=seed), durations(rows))
        return {whole.clip_name(row) for row in range(len(rows), len(whole))}

    order = np.argsort([Random(n).random() for n in range(len(manifest))])
    fields = ("paths", "labels", "splits", "groups", "intervals")
    shuffled = replace(manifest, **{name: getattr(manifest, name)[order] for name in fields})
    assert drawn(manifest, 1) == drawn(shuffled, 1) != drawn(manifest, 2)


def test_rows_that_are_labelled_as_background_count(tmp_path):
    rows = [("a", 2 * n, 2 * n + 1, ("x", "y", "nothing")[n % 3], "train", "") for n in range(12)]
    manifest = make(tmp_path, rows)
    assert len(add_background(manifest, Background("nothing", 1 / 3, 0.1), durations(manifest))) == 12
    assert len(add_background(manifest, Background("nothing", 0.5, 0.1), durations(manifest))) == 16


def test_of_multilabel_rows_they_have_no_class(tmp_path):
    rows = [("a", 5 * n, 5 * n + 1, ("x", "y", "x;y")[n % 3], "train", "") for n in range(12)]
    manifest = make(tmp_path, rows, multilabel=True)
    with_background = add_background(manifest, NOTHING, durations(manifest))
    assert (with_background.classes, len(with_background)) == (("x", "y"), 20)
    assert not with_background.targets[12:].any()
    assert with_background.labels[12:].tolist() == [2] * 8


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.floats(0, 0.9), st.floats(0, 3), st.integers(5, 60))
def test_no_background_row_touches_another_row_or_the_end(tmp_path_factory, seed, share, margin, seconds):
    random = Random(seed)
    starts = [random.uniform(0, seconds) for _ in range(6)]
    rows = [
        ("a", f"{s:.3f}", f"{s + random.uniform(0.01, 4):.3f}", "xy"[n % 2], "train", "") for n, s in enumerate(starts)
    ]
    manifest = make(tmp_path_factory.mktemp("rows"), rows)
    try:
        whole = add_background(manifest, Background("none", share, margin, seed), durations(manifest, seconds))
    except DataError:
        return  # nothing fits
    spans = [whole.interval(row) for row in range(len(whole))]
    for place, (start, end) in enumerate(spans[6:]):
        assert 0 <= start < end <= seconds + 1e-6
        assert all(end <= low + 1e-6 or start >= high - 1e-6 for n, (low, high) in enumerate(spans) if n != place + 6)
    assert len(spans) - 6 <= round(share / (1 - share) * 6)


def test_whole_files_and_unreadable_recordings_get_none(tmp_path):
    manifest = make(
        tmp_path, [("a", 1, 2, "x", "", ""), ("b", "", "", "y", "", ""), ("c", 1, 2, "y", "", "")], whole=True
    )
    known = {manifest.paths[0]: 50.0, manifest.paths[1]: 50.0}
    whole = add_background(manifest, NOTHING, known)
    assert {whole.path(row).name for row in range(3, len(whole))} == {"a"}


def test_what_cannot_be_drawn_is_said(tmp_path, manifest):
    with pytest.raises(DataError, match="no row of nothing fits into the unlabelled time of the recordings in train"):
        add_background(manifest, replace(NOTHING, margin=1000), durations(manifest))
    only = add_background(manifest, replace(NOTHING, share=0.9), durations(manifest, 55))
    assert any("data.background: only" in note for note in only.notes)
    whole = make(tmp_path, [("a", "", "", "x", "", ""), ("b", "", "", "y", "", "")], whole=True)
    with pytest.raises(DataError, match="no row has a start or an end"):
        add_background(whole, NOTHING, {})
    tasks = {"it": Task(kind="classify", columns=("label",))}
    several = make(tmp_path, [("a", 0, 1, "x", "", ""), ("b", 0, 1, "y", "", "")], whole=True, tasks=tasks)
    with pytest.raises(DataError, match="takes one task of classes, not tasks"):
        add_background(several, NOTHING, {})


def test_a_recording_with_two_names_is_one_recording(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    manifest = make(tmp_path, [("a.mp4", 0, 4, "x", "", ""), ("link.mp4", 4, 8, "y", "", "")], whole=True)
    whole = add_background(manifest, Background("none", 0.5, 0), durations(manifest, 12.5))
    (row,) = range(2, len(whole))
    assert whole.interval(row)[0] >= 8


def test_where_nothing_fits_no_time_is_spent_on_trying(tmp_path):
    rows = [("a", 2 * n, 2 * n + 1.5, "xy"[n % 2], "train", "") for n in range(2000)]
    manifest = make(tmp_path, rows)
    with pytest.raises(DataError, match="no row of nothing fits"):
        add_background(manifest, Background("nothing", 0.9, 0.1), durations(manifest, 4000))


def test_background_of_multilabel_rows_is_said_to_have_no_class(tmp_path):
    manifest = make(tmp_path, [("a", 5, 6, "x", "", ""), ("a", 8, 9, "y", "", "")], multilabel=True, whole=True)
    assert add_background(manifest, NOTHING, durations(manifest)).notes[-1] == (
        "1 row without a class drawn from unlabelled time"
    )

"""What `predict` says of several tasks: the very numbers of evaluation, in text, JSON and CSV, and drawn on videos."""

import csv
import json
import multiprocessing
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from grey import TINY, grey_frames, make_clip

import finetune as ft
from finetune.errors import DataError, RunError
from finetune.prediction.overlay import COLOURS
from finetune.prediction.predict import Prediction, TaskPrediction
from finetune.prediction.render import build_overlay, output_paths
from finetune.train.from_recipe import train_from_recipe
from finetune.video.decode.probe import probe
from finetune.video.decode.read import read_frames

TASKS = {
    "action": {"kind": "classify", "columns": "label"},
    "box": {"kind": "box"},
    "track": {"kind": "motion"},
    "tags": {"kind": "multilabel"},
    "size": {"kind": "ordinal", "levels": ["small", "middling", "large"]},
    "speed": {"kind": "regress"},
}
NOTHING = Path("a.mp4")
COLUMNS = "path,label,x,y,w,h,dx,dy,tags,size,speed,split"


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """24 clips of 48 x 48 pixels, bright or dark."""
    folder = tmp_path_factory.mktemp("several")
    lines = [COLUMNS]
    for number in range(24):
        make_clip(folder / f"{number}.mp4", 7, size=48, start=200 if number % 2 else 16, step=2)
        label, level = ("bright é", "dark б")[number % 2], ("small", "middling", "large")[number % 3]
        box = f"{10 + number % 5},{12 - number % 3},{9 + number % 4},8,{number % 3 - 1},{0.5 * (number % 2)}"
        split = ("train", "train", "val", "test")[number // 2 % 4]
        lines.append(f"{number}.mp4,{label},{box},{('a', 'b', 'a;b', '')[number % 4]},{level},{number / 7},{split}")
    (folder / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "clips.csv"


def trained(table, tasks, out):
    recipe = ft.Recipe.model_validate(
        {
            "data": {"manifest": str(table)},
            "clip": {"num_frames": 4, "size": 32},
            "model": {"backbone": TINY, "weights": "none", "temporal": "mean"},
            "augment": {"preset": "none", "flip": False},
            "tasks": tasks,
            "phases": [{"unfreeze": "all", "epochs": 1, "lr": 1e-3, "batch_norm": "train"}],
            "train": {"batch_size": 4, "device": "cpu"},
        }
    )
    return train_from_recipe(recipe, ft.Manifest.from_csv(table, tasks=recipe.tasks), out=out)


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    return trained(table, TASKS, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def numbers_run(table, tmp_path_factory):
    """One whose tasks have no classes."""
    return trained(table, {name: TASKS[name] for name in ("track", "box")}, tmp_path_factory.mktemp("runs") / "run")


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clip_of(table):
    return table.parent / "6.mp4"


@pytest.mark.parametrize("views", [1, 3])
def test_prediction_gives_the_very_numbers_of_evaluation_for_every_task(run, tmp_path, views):
    ft.evaluate(run, out=tmp_path, views=views, pictures=False)
    files = {"action": "predictions.csv"} | {name: f"predictions-{name}.csv" for name in list(TASKS)[1:]}
    rows = {name: rows_of(tmp_path / file) for name, file in files.items()}
    found = ft.predict(run, [row["path"] for row in rows["action"]], views=views)
    assert len(found) == 6
    for number, each in enumerate(found):
        assert list(each.tasks) == list(TASKS)
        for name in ("action", "tags", "size"):
            row, said = rows[name][number], each.tasks[name]
            assert (row["path"], row["predicted"]) == (str(each.path), said.predicted)
            assert json.loads(row["top_k"]) == [list(pair) for pair in said.top_k]
        for name, columns in (("box", "xywh"), ("track", ("dx", "dy")), ("speed", ("speed",))):
            told = {column: rows[name][number][f"{column}_said"] for column in columns}
            assert told == {column: f"{value:.6g}" for column, value in each.tasks[name].numbers.items()}
        assert each.tasks["box"].frame == 7 // 2
        assert (each.predicted, each.top_k) == (each.tasks["action"].predicted, each.tasks["action"].top_k)


def test_a_run_of_numbers_alone_names_no_class(numbers_run, table, finetune):
    (found,) = ft.predict(numbers_run, [clip_of(table)])
    assert (found.predicted, found.probability, found.top_k, found.named) == ("", None, (), None)
    assert list(found.tasks) == ["track", "box"]
    status, printed, _ = finetune("predict", numbers_run, clip_of(table), "--json")
    assert status == 0
    (item,) = json.loads(printed)
    assert (item["predicted"], item["probability"], item["top_k"]) == ("", None, [])
    assert item["tasks"]["track"] == {"kind": "motion", **found.tasks["track"].numbers}
    status, printed, _ = finetune("predict", numbers_run, clip_of(table))
    assert status == 0
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["track", "box"]
    assert lines[2].endswith("at frame 3")
    with pytest.raises(RunError, match="has no temperature"):
        ft.predict(numbers_run, [clip_of(table)], calibrated=True)


def test_several_tasks_are_printed_in_the_order_of_the_recipe(run, table, finetune):
    (found,) = ft.predict(run, [clip_of(table)])
    status, printed, _ = finetune("predict", run, clip_of(table), "--top-k", "1")
    assert status == 0
    path, *lines = printed.splitlines()
    assert path == str(clip_of(table))
    assert [line.split()[0] for line in lines] == list(TASKS)
    likeliest, probability = found.top_k[0]
    assert lines[0] == f"    action   {likeliest} {probability:.3f}"
    numbers = "   ".join(f"{name} {value:.6g}" for name, value in found.tasks["box"].numbers.items())
    assert lines[1] == f"    box      {numbers}   at frame 3"
    assert lines[3].split()[1] == "is"


def test_json_has_an_object_for_each_task(run, table, finetune):
    (found,) = ft.predict(run, [clip_of(table)], top_k=2)
    (item,) = json.loads(finetune("predict", run, clip_of(table), "--json", "--top-k", "2")[1])
    assert list(item) == ["path", "predicted", "probability", "top_k", "tasks"]
    tasks = item["tasks"]
    assert list(tasks) == list(TASKS)
    assert tasks["action"]["class"] == item["predicted"] == found.predicted
    assert tasks["box"] == {"kind": "box", **found.tasks["box"].numbers, "frame": 3}
    assert tasks["tags"]["classes"] == list(found.tasks["tags"].named)
    assert tasks["size"]["level"] in {"small", "middling", "large"}
    assert set(tasks["size"]["top_k"][0]) == {"level", "probability"}
    assert tasks["speed"] == {"kind": "regress", "speed": found.tasks["speed"].numbers["speed"]}


@pytest.mark.slow
def test_a_table_has_columns_for_each_further_task(run, numbers_run, table, tmp_path, finetune):
    assert finetune("predict", run, table.parent, "--csv", tmp_path / "a.csv")[0] == 0
    rows = rows_of(tmp_path / "a.csv")
    of_named = ("predicted", "probability", "top_k")
    assert list(rows[0]) == [
        *("path", "predicted", "probability", "top_k"),
        *(f"box.{part}" for part in ("x", "y", "w", "h", "frame")),
        *("track.dx", "track.dy"),
        *(f"{task}.{part}" for task in ("tags", "size") for part in of_named),
        "speed.speed",
    ]
    assert len(rows) == 24
    for row, each in zip(rows, ft.predict(run, [table.parent]), strict=True):
        assert row["box.x"] == f"{each.tasks['box'].numbers['x']:.6g}"
        assert row["size.predicted"] == each.tasks["size"].predicted
    assert finetune("predict", numbers_run, clip_of(table), "--csv", tmp_path / "b.csv")[0] == 0
    (row,) = rows_of(tmp_path / "b.csv")
    assert list(row)[4:] == ["track.dx", "track.dy", "box.x", "box.y", "box.w", "box.h", "box.frame"]
    assert (row["predicted"], row["probability"], row["top_k"]) == ("", "", "[]")


def test_one_task_is_printed_as_ever(trained_run, clip_folder, tmp_path, finetune):
    clip = clip_folder / "test" / "it's bright" / "0.mp4"
    (found,) = ft.predict(trained_run, [clip])
    assert found.tasks == {}
    (first, p), (second, q) = found.top_k
    assert finetune("predict", trained_run, clip)[1] == f"{clip}\n    {first} {p:.3f}   {second} {q:.3f}\n"
    items = [{"class": first, "probability": p}, {"class": second, "probability": q}]
    item = {"path": str(clip), "predicted": first, "probability": p, "top_k": items}
    printed = finetune("predict", trained_run, clip, "--json")[1]
    assert printed == json.dumps([item], indent=1, ensure_ascii=False) + "\n"
    assert finetune("predict", trained_run, clip, "--csv", tmp_path / "a.csv")[1] == f"{tmp_path / 'a.csv'}\n"
    listed = json.dumps(found.top_k).replace('"', '""')
    expected = f'path,predicted,probability,top_k\r\n{clip},{first},{p},"{listed}"\r\n'
    assert (tmp_path / "a.csv").read_bytes().decode() == expected


def test_calibrated_changes_the_tasks_that_have_a_temperature_and_no_others(run, table, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    noted = copy / "checkpoints/best/meta.json"
    meta = json.loads(noted.read_text())
    for name in ("action", "tags"):
        meta["tasks"][name]["temperature"] = 3.0
    noted.write_text(json.dumps(meta))
    (plain,), (calibrated,) = (ft.predict(copy, [clip_of(table)], calibrated=each) for each in (False, True))
    for name in TASKS:
        assert (plain.tasks[name] == calibrated.tasks[name]) == (name not in {"action", "tags"})
        assert plain.tasks[name].predicted == calibrated.tasks[name].predicted
    with pytest.raises(RunError, match="its temperature was fitted with 1 views, not 2"):
        ft.predict(copy, [clip_of(table)], calibrated=True, views=2)


def test_what_is_no_number_is_refused(run, table, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(run, tmp_path / "run")
    weights = copy / "checkpoints/best/model.safetensors"
    state = load_file(weights)
    name = next(key for key in state if key.startswith("heads") and key.endswith("bias") and "box" in key)
    state[name][:] = float("nan")
    save_file(state, weights)
    with pytest.raises(DataError, match=r"6.mp4: its predictions are not finite; train with"):
        ft.predict(copy, [clip_of(table)])


def test_a_video_is_drawn_with_the_box_where_it_is_said_and_moved_on_other_frames(run, table, tmp_path, finetune):
    out = tmp_path / "new" / "OUT.mp4"
    status, printed, _ = finetune("predict", run, clip_of(table), "--draw", out)
    assert status == 0
    assert printed.splitlines()[-1] == str(out)
    info = probe(out)
    assert (info.num_frames, info.width, info.height) == (7, 48, 48)
    (marks,) = (build_overlay(each) for each in ft.predict(run, [clip_of(table)]))
    assert marks.reference_frame == 3
    assert marks.lines[0].startswith(("bright é 0.", "dark б 0."))
    assert [line.partition(" ")[0] for line in marks.lines[1:]] == ["tags:", "size:", "speed"]


def test_the_box_colour_is_in_the_file_where_the_box_is_said(numbers_run, table, tmp_path, monkeypatch, finetune):
    said = {
        "track": TaskPrediction("motion", numbers={"dx": 2.0, "dy": 0.0}),
        "box": TaskPrediction("box", numbers={"x": 14.0, "y": 16.0, "w": 16.0, "h": 16.0}, frame=3),
    }
    clip = make_clip(tmp_path / "a.mp4", 7, size=64, start=60, step=0)
    result = clip, Prediction(clip, (), None, said)
    monkeypatch.setattr("finetune.prediction.predict.iter_predictions", lambda *_, **__: iter([result]))
    assert finetune("predict", numbers_run, clip, "--draw", tmp_path / "b.mp4")[0] == 0
    frames, _ = read_frames(tmp_path / "b.mp4", range(7))
    for number, left in enumerate(14 + 2 * (np.arange(7) - 3)):
        row = frames[number].transpose(1, 2, 0)[20].astype(int)
        nearest = np.flatnonzero(np.abs(row - COLOURS[0]).sum(-1) < 130)
        assert abs(nearest.min() - left) <= 2 and abs(nearest.max() - (left + 15)) <= 2


def test_several_videos_are_drawn_into_a_folder_under_their_names(trained_run, tmp_path, finetune):
    clips = tmp_path / "clips"
    for name in ("a/0.mp4", "b/0.mp4", "b/0.mkv"):
        make_clip(clips / name)
    shutil.copy(clips / "a/0.mp4", clips / "a/0.mpg")
    cv2.imwrite(str(clips / "still.webp"), grey_frames(1)[0])
    cv2.imwrite(str(clips / "still.png"), grey_frames(1)[0])
    assert finetune("predict", trained_run, clips, "--draw", tmp_path / "out")[0] == 0
    found = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert found == ["a/0.mp4", "a/0.mpg.mp4", "b/0.mkv", "b/0.mp4", "still.png", "still.webp.png"]
    assert probe(tmp_path / "out/a/0.mp4").num_frames == 8
    status, printed, _ = finetune(
        "predict", trained_run, clips / "a/0.mp4", clips / "b/0.mp4", "--json", "--draw", tmp_path / "two"
    )
    assert status == 0
    assert len(json.loads(printed)) == 2
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["a", "b"]


def test_a_place_to_draw_to_that_is_none_is_refused_before_anything_is_predicted(trained_run, tmp_path, finetune):
    clips = tmp_path / "clips"
    clip, other = make_clip(clips / "a.mp4"), make_clip(clips / "b.mp4")
    image = clips / "still.png"
    cv2.imwrite(str(image), grey_frames(1)[0])
    (tmp_path / "file").write_text("something else")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(clip)
    before = clip.read_bytes()
    for paths, out, message in (
        ([clip], tmp_path / "x.webm", "x.webm: a video must have a name that ends in .mp4, .m4v, .mov, .mkv, .avi"),
        ([clip], tmp_path / "x", "a video must have a name that ends in"),
        ([clip], tmp_path / "x.png", "a video must have a name that ends in"),
        ([image], tmp_path / "x.mp4", "an image must have a name that ends in .png, .jpg, .jpeg"),
        ([clip], clip, "a.mp4: is one of the input videos"),
        ([clip], tmp_path / "link.mp4", "link.mp4: is one of the input videos"),
        ([clip], tmp_path / "folder.mp4", "folder.mp4: is a folder, not a file"),
        ([clip, other], tmp_path / "file", "file: exists and is not a folder; 2 files need a folder"),
        ([clip, other], tmp_path / "x.mp4", "x.mp4: 2 files need a folder; name a folder"),
        ([clip, other], clips, "a.mp4: is one of the input videos"),
        ([clips], clips / "drawn", "drawn: lies inside .*clips, so the next prediction would include it"),
    ):
        with pytest.raises(RunError, match=message):
            output_paths(paths, out)
    status, _, err = finetune("predict", trained_run, clip, "--draw", tmp_path / "x.webm")
    assert status == 2
    assert "x.webm: a video must have a name" in err
    assert clip.read_bytes() == before


def test_marks_of_one_task_are_its_class_alone():
    one = Prediction(NOTHING, (("jump", 0.914), ("run", 0.086)))
    assert build_overlay(one).lines == ("jump 0.91",)
    assert build_overlay(one).objects == ()
    several = Prediction(NOTHING, (("jump", 0.914),), ("jump", "run"))
    assert build_overlay(several).lines == ("jump, run",)
    assert build_overlay(Prediction(NOTHING, (("jump", 0.2),), ())).lines == ("none of the classes",)


def test_the_second_box_moves_by_the_second_movement():
    def box(x):
        return TaskPrediction("box", numbers=dict(zip("xywh", (x, 2.0, 3.0, 4.0), strict=True)), frame=5)

    def motion(dx):
        return TaskPrediction("motion", numbers={"dx": dx, "dy": 0.5})

    tasks = {"ball": box(1.0), "wind": motion(7.0), "hand": box(8.0), "arm": motion(9.0), "eye": motion(3.0)}
    marks = build_overlay(Prediction(NOTHING, (), None, tasks))
    assert marks.reference_frame == 5
    assert [(each.name, each.box and each.box[0], each.motion and each.motion[0]) for each in marks.objects] == [
        ("ball", 1.0, 7.0),
        ("hand", 8.0, 9.0),
        ("eye", None, 3.0),
    ]


def test_a_daemonic_process_predicts_as_many_files_as_any_other(trained_run, clip_folder, tmp_path, monkeypatch):
    """From 32 files on loading processes are started, which a worker of multiprocessing.Pool may not."""
    for number in range(32):
        (tmp_path / f"{number:02}.mp4").symlink_to(next(clip_folder.rglob("*.mp4")))
    (alone,) = ft.predict(trained_run, [tmp_path / "00.mp4"])
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    found = ft.predict(trained_run, [tmp_path])
    assert len(found) == 32 and {each.top_k for each in found} == {alone.top_k}

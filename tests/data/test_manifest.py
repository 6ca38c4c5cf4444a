import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.data.labels import output_specs
from finetune.data.manifest import Manifest
from finetune.data.read import find_media
from finetune.errors import DataError
from finetune.recipe.tasks import OutputSpec, Task

BOX = Task(kind="box")
TASKS = {"box": BOX, "action": Task(kind="classify"), "tags": Task(kind="multilabel"), "skill": Task(kind="ordinal")}
ROWS = """path,split,box_is_ignored,x,y,w,h,action,tags,skill
0,train,,1,2,3,4,run,a;b,1
1,train,,,,,,sit,,2
2,train,,5,6,7,8,,b,
3,train,,,,,,run,b,3
4,val,,1,1,1,1,sit,a,1
5,test,,,,,,,,
6,test,,2,2,2,2,run,c,2
"""


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def write(root, text, name="clips.csv"):
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_folder_of_splits_keeps_them(tmp_path):
    names = ["train/a/1.mp4", "train/b/2.avi", "validation/a/3.mp4", "test/b/child's pose.MP4"]
    touch(tmp_path, *names, "train/a/notes.txt", "train/b/.hidden.mp4")
    manifest = Manifest.from_folder(tmp_path)
    assert [manifest.path(row).relative_to(tmp_path).as_posix() for row in range(4)] == [
        "test/b/child's pose.MP4",
        *names[:3],
    ]
    assert manifest.splits.tolist() == ["test", "train", "train", "val"]
    assert manifest.classes == ("a", "b")


def test_names_may_be_of_any_script(tmp_path):
    touch(tmp_path, *[f"{name}/{n} é.mp4" for name in ("बैठना", "走る ok", "a;b,c") for n in range(10)])
    manifest = Manifest.from_folder(tmp_path)
    assert manifest.classes == ("a;b,c", "बैठना", "走る ok")
    manifest.to_csv(tmp_path / "copy.csv")
    again = Manifest.from_csv(tmp_path / "copy.csv")
    assert again.classes == manifest.classes
    assert again.paths.tolist() == manifest.paths.tolist()
    assert again.splits.tolist() == manifest.splits.tolist()


def test_rows_without_a_split_are_divided_by_class_and_seed(tmp_path):
    touch(tmp_path, *[f"{name}/{n}.mp4" for name in "abc" for n in range(20)])
    manifest = Manifest.from_folder(tmp_path, val=0.2, test=0.2)
    assert manifest.counts("test") == {"a": 4, "b": 4, "c": 4}
    assert manifest.counts("val") == {"a": 4, "b": 4, "c": 4}
    assert Manifest.from_folder(tmp_path, val=0.2, test=0.2).splits.tolist() == manifest.splits.tolist()
    assert Manifest.from_folder(tmp_path, val=0.2, test=0.2, seed=1).splits.tolist() != manifest.splits.tolist()


def frames(*folders, count=6):
    return [f"{folder}/img_{number:05}.jpg" for folder in folders for number in range(1, count + 1)]


def test_a_folder_of_numbered_images_is_one_clip_and_no_split_divides_it(tmp_path):
    videos = [f"{name}/v{number}" for name in "ab" for number in range(20)]
    touch(tmp_path, *frames(*videos), "a/loose_1.jpg", "a/loose_2.jpg", "b/v99.mp4")
    manifest = Manifest.from_folder(tmp_path)
    clips = [manifest.path(row).relative_to(tmp_path).as_posix() for row in range(len(manifest))]
    assert sorted(clips) == sorted([*videos, "a/loose_1.jpg", "a/loose_2.jpg", "b/v99.mp4"])
    manifest.to_csv(tmp_path / "again.csv")
    again = Manifest.from_csv(tmp_path / "again.csv")
    assert again.paths.tolist() == manifest.paths.tolist() and again.splits.tolist() == manifest.splits.tolist()
    alone = Manifest.from_folder(tmp_path, image_sequences=False)
    assert len(alone) == 40 * 6 + 3
    sides = {
        folder: {alone.splits[row] for row in range(len(alone)) if alone.path(row).parent.name == folder}
        for folder in ("v0", "v1")
    }
    assert any(len(splits) > 1 for splits in sides.values())  # what the default is there to prevent


def test_folders_of_numbered_images_lie_at_any_depth_below_their_class(tmp_path):
    touch(tmp_path, *frames("train/a/cam 1/v.avi", "train/b/v", "val/a/x/y/z", "val/b/v"))
    manifest = Manifest.from_folder(tmp_path)
    assert [manifest.path(row).relative_to(tmp_path).as_posix() for row in range(4)] == [
        "train/a/cam 1/v.avi", "train/b/v", "val/a/x/y/z", "val/b/v"
    ]  # fmt: skip
    assert manifest.classes == ("a", "b") and manifest.splits.tolist() == ["train", "train", "val", "val"]


def test_a_folder_whose_images_may_be_two_videos_is_refused_and_a_setting_takes_them_apart(tmp_path):
    touch(tmp_path, *frames("a/v1", "b/v1"), "a/v1/cam2_1.jpg", "a/v1/cam2_2.jpg")
    with pytest.raises(DataError, match=r"a/v1: holds cam2_\*.jpg, img_\*.jpg, .* data.image_sequences=false"):
        Manifest.from_folder(tmp_path, val=0, test=0)
    assert len(Manifest.from_folder(tmp_path, val=0, test=0, image_sequences=False)) == 14


def test_a_folder_is_one_clip_wherever_media_are_looked_for(tmp_path):
    touch(tmp_path, *frames("v1", "v2"), "cat.jpg", "dog.jpg")
    assert find_media(tmp_path / "v1") == [tmp_path / "v1"]
    assert find_media(tmp_path) == [tmp_path / name for name in ("cat.jpg", "dog.jpg", "v1", "v2")]
    assert len(find_media(tmp_path, image_sequences=False)) == 14


def test_a_pattern_finds_groups_in_paths(tmp_path):
    touch(tmp_path, *[f"{name}/v_g{group:02}_{n}.mp4" for name in "ab" for group in range(8) for n in range(2)])
    manifest = Manifest.from_folder(tmp_path, group_pattern=r"_g(\d+)_")
    sides = {group: set(manifest.splits[manifest.groups == group]) for group in set(manifest.groups)}
    assert all(len(side) == 1 for side in sides.values())
    with pytest.raises(DataError, match="finds no group in a/v_g00_0.mp4"):
        Manifest.from_folder(tmp_path, group_pattern="person(.)")


def test_a_csv_is_read_with_paths_relative_to_it(tmp_path):
    touch(tmp_path, "a 1.mp4", "sub/b.mp4", "c.mp4")
    path = write(tmp_path, "﻿label,path,split,extra\nx,a 1.mp4,train,7\ny,sub/b.mp4,Training,8\nx,c.mp4,test,9\n")
    manifest = Manifest.from_csv(path)
    assert [manifest.path(row) for row in range(3)] == [tmp_path / n for n in ("a 1.mp4", "sub/b.mp4", "c.mp4")]
    assert manifest.splits.tolist() == ["train", "train", "test"]
    assert manifest.groups is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.mp4,x\n", "no column path.*it has file, label"),
        ("path,labels\na.mp4,x\n", r"no column label \(nearest: labels\)"),
        ("path,label\n", "has a header but no rows"),
        ("path,label\na.mp4,\n", "no label in line 2"),
        ("path,label\na.mp4,x\nb.mp4,x\n", "x is the only class"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,tset\n", "unknown split tset"),
        ("path,label,split\na.mp4,x,test\nb.mp4,y,test\n", "no row is in the train split"),
        ("path,label,split\na.mp4,x,train\nb.mp4,y,train\nc.mp4,z,test\n", "test has z, which is not in train"),
        (
            "path,label,split\na.mp4,x,train\nb.mp4,y,train\na.mp4,x,test\n",
            "file .*a.mp4 is in train and in test: a leak",
        ),
        (
            "path,label,split,group\na.mp4,x,train,p1\nb.mp4,y,train,p2\nc.mp4,x,test,p1\n",
            "group p1 is in train and in test: a leak",
        ),
        ("path,label\na.mp4,x\nb.mp4,y\n", "too few to hold out"),
        ("path,label\nn1.mp4,x\nn2.mp4,y\nc.mp4,y\n", "2 of 3 files do not exist: .*n1.mp4, .*n2.mp4"),
    ],
)
def test_what_is_wrong_with_a_csv_is_said(tmp_path, text, message):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    with pytest.raises(DataError, match=message):
        Manifest.from_csv(write(tmp_path, text))


def test_a_class_of_any_task_that_is_only_tested_is_refused_with_the_task(tmp_path):
    path = write(tmp_path, ROWS)
    with pytest.raises(DataError, match=r"tasks.tags: test has c, which is not in train: no model can predict it"):
        Manifest.from_csv(path, packed=True, tasks=TASKS)
    levels = {"skill": Task(kind="ordinal"), "action": Task(kind="classify")}
    write(tmp_path, ROWS.replace("6,test,,2,2,2,2,run,c,2", "6,test,,,,,,jump,c,4"))
    with pytest.raises(DataError, match=r"(?s)tasks.skill: test has 4, which.*tasks.action: test has jump, which"):
        Manifest.from_csv(path, packed=True, tasks=levels)


def linked(root):
    """Three ways to one file."""
    touch(root, "a.mp4", "b.mp4", "deep/c.mp4")
    (root / "soft.mp4").symlink_to(root / "a.mp4")
    os.link(root / "a.mp4", root / "hard.mp4")
    return ["soft.mp4", "hard.mp4", "deep/../a.mp4", "a.mp4"]


def test_one_file_under_two_labels_is_refused_however_it_is_written(tmp_path):
    for again in linked(tmp_path):
        path = write(tmp_path, f"path,label,split\na.mp4,x,train\nb.mp4,y,train\n{again},y,train\n")
        with pytest.raises(
            DataError, match=r"one file has two labels: .*a.mp4 \(x\) and .*mp4 \(y\); keep the correct one"
        ):
            Manifest.from_csv(path)
        with pytest.raises(DataError, match="one file has two labels"):
            Manifest.from_csv(path, whole=True)
        assert (
            len(
                Manifest.from_csv(write(tmp_path, f"path,label,split\na.mp4,x,train\nb.mp4,y,train\n{again},x,train\n"))
            )
            == 3
        )
    text = "path,label,split\na.mp4,x,train\nb.mp4,y;x,train\nhard.mp4,y,train\n"
    with pytest.raises(DataError, match=r"one file has two labels: .*list its classes in one row, a;b"):
        Manifest.from_csv(write(tmp_path, text), multilabel=True)
    tasks = {"it": Task(kind="classify"), "skill": Task(kind="ordinal"), "age": Task(kind="regress")}
    rows = "a.mp4,train,x,1,3\nb.mp4,train,y,2,4\nsoft.mp4,train,,2,5\nhard.mp4,train,x,,\n"
    with pytest.raises(
        DataError, match=r"clips.csv: tasks.skill: one file has two labels: .*a.mp4 \(1\) and .*soft"
    ) as error:
        Manifest.from_csv(write(tmp_path, f"path,split,it,skill,age\n{rows}"), tasks=tasks)
    assert "tasks.it" not in str(error.value) and "tasks.age" not in str(error.value)


def test_one_file_in_two_splits_is_a_leak_however_it_is_written(tmp_path):
    for again in linked(tmp_path):
        path = write(tmp_path, f"path,label,split\na.mp4,x,train\nb.mp4,y,train\n{again},x,test\n")
        with pytest.raises(DataError, match="file .*a.mp4 is in train and in test: a leak"):
            Manifest.from_csv(path)


def test_linked_folders_of_two_classes_are_refused(tmp_path):
    touch(tmp_path, *[f"data/a/{number}.mp4" for number in range(8)], "data/b/own.mp4")
    for number in range(8):
        os.link(tmp_path / f"data/a/{number}.mp4", tmp_path / f"data/b/{number}.mp4")
    with pytest.raises(DataError, match="one file has two labels: .*and 3 more"):
        Manifest.from_folder(tmp_path / "data")


def test_all_problems_of_a_manifest_are_said_at_once(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    text = "path,label,split,group\na.mp4,x,train,p\nb.mp4,y,train,q\nb.mp4,y,test,q\nc.mp4,z,test,p\n"
    with pytest.raises(DataError) as error:
        Manifest.from_csv(write(tmp_path, text))
    assert [phrase in str(error.value) for phrase in ("has z", "file ", "group p, q")] == [True] * 3


def test_empty_classes_are_named(tmp_path):
    touch(tmp_path, "a/1.mp4")
    (tmp_path / "b").mkdir()
    (tmp_path / "c" / "deep").mkdir(parents=True)
    with pytest.raises(DataError, match="no video or image in b, c"):
        Manifest.from_folder(tmp_path)


def test_a_missing_folder_or_file_is_said(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        Manifest.from_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is no manifest .*finetune data quickstart"):
        Manifest.from_csv(tmp_path / "quickstart" / "manifest.csv")


def test_media_in_a_folder_are_found_in_order(tmp_path):
    touch(tmp_path, "b.mp4", "a/x.jpg", "a/readme.md")
    assert find_media(tmp_path) == [tmp_path / "a/x.jpg", tmp_path / "b.mp4"]
    assert find_media(tmp_path / "b.mp4") == [tmp_path / "b.mp4"]


def test_dropping_rows_keeps_classes(tmp_path):
    touch(tmp_path, *[f"train/{name}/{n}.mp4" for name in "ab" for n in range(2)])
    manifest = Manifest.from_folder(tmp_path).without([0, 1])
    assert len(manifest) == 2
    assert manifest.classes == ("a", "b")
    assert manifest.counts("train") == {"a": 0, "b": 2}


@pytest.fixture
def manifest(tmp_path):
    return Manifest.from_csv(write(tmp_path, ROWS), packed=True, tasks=TASKS, checked=False)  # c is tested only


def known(manifest):
    return {name: labels.known.astype(int).tolist() for name, labels in manifest.tasks.items()}


def test_a_row_may_lack_any_label_and_is_a_row_still(manifest):
    assert known(manifest) == {
        "box": [1, 0, 1, 0, 1, 0, 1],
        "action": [1, 1, 0, 1, 1, 0, 1],
        "tags": [1, 1, 1, 1, 1, 1, 1],
        "skill": [1, 1, 0, 1, 1, 0, 1],
    }
    assert manifest.classes == ("run", "sit") and manifest.targets is None
    assert manifest.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert [manifest.label(row) for row in (0, 1, 2, 5)] == ["run", "sit", "", ""]
    assert manifest.counts("train") == {"run": 2, "sit": 1} and manifest.counts("test") == {"run": 1, "sit": 0}


def test_dropping_rows_and_taking_a_split_keeps_the_labels_of_all_tasks_by_their_rows(manifest):
    fewer = manifest.without([0, 3, 5])
    assert known(fewer) == {"box": [0, 1, 1, 1], "action": [1, 0, 1, 1], "tags": [1, 1, 1, 1], "skill": [1, 0, 1, 1]}
    assert [fewer.tasks["skill"].text(row) for row in range(4)] == [["2"], [""], ["1"], ["2"]]
    assert fewer.tasks["skill"].names == ("1", "2", "3")
    tested = manifest.for_split("test")
    assert [tested.path(row).name for row in range(len(tested))] == ["5", "6"]
    assert tested.tasks["box"].values[1].tolist() == [2, 2, 2, 2] and not tested.tasks["box"].known[0]


def test_rows_are_seen_by_any_task_that_chooses_among_names(manifest):
    by_tags, by_skill, by_box = (manifest.for_task(name) for name in ("tags", "skill", "box"))
    assert by_tags.classes == ("a", "b", "c") and by_tags.targets.sum(0).tolist() == [2, 3, 1]
    assert [by_tags.label(row) for row in (0, 1, 3)] == ["a;b", "", "b"]
    assert by_tags.labels.tolist() == [0, 3, 1, 1, 0, 3, 2]  # of several the rarest
    assert by_skill.classes == ("1", "2", "3") and by_skill.labels.tolist() == [0, 1, 3, 2, 0, 3, 1]
    assert by_box.classes == () and by_box.label(0) == "" and by_box.counts("train") == {}
    assert by_tags.for_task("action").labels.tolist() == manifest.labels.tolist()
    assert by_box.tasks is manifest.tasks


def test_a_models_outputs_put_tasks_in_its_order_and_among_its_names(manifest):
    outputs = {
        "tags": OutputSpec("multilabel", ("c", "d", "b", "a")),
        "action": OutputSpec("classify", ("sit", "jump", "run")),
    }
    seen = manifest.aligned_to_outputs(outputs)
    assert list(seen.tasks) == ["tags", "action"] and seen.classes == ("c", "d", "b", "a")
    assert [seen.label(row) for row in (0, 1, 6)] == ["b;a", "", "c"]
    assert seen.tasks["action"].values.tolist() == [2, 0, 3, 2, 0, 3, 2]
    assert seen.tasks["action"].known.tolist() == manifest.tasks["action"].known.tolist()
    assert [seen.for_task("action").label(row) for row in range(4)] == ["run", "sit", "", "run"]


def test_outputs_of_the_very_data_change_nothing_but_need_no_names_of_numbers(manifest):
    outputs = output_specs(manifest.tasks, manifest.rows("train"))
    seen = manifest.aligned_to_outputs(outputs)
    assert seen.classes == manifest.classes and seen.labels.tolist() == manifest.labels.tolist()
    assert all(seen.tasks[name] is manifest.tasks[name] for name in manifest.tasks)
    assert manifest.aligned_to_outputs({"box": outputs["box"]}).tasks.keys() == {"box"}


def test_a_primary_tasks_class_that_is_only_tested_is_refused(tmp_path):
    path = write(tmp_path, "path,split,it\n0,train,a\n1,train,b\n2,test,c\n")
    with pytest.raises(DataError, match="test has c, which is not in train"):
        Manifest.from_csv(path, packed=True, tasks={"it": Task(kind="classify")})


def test_a_task_without_labels_to_learn_from_and_a_test_of_none_are_refused(tmp_path):
    tasks = {"it": Task(kind="classify"), "level": Task(kind="regress")}
    path = write(tmp_path, "path,split,it,level\n0,train,a,\n1,train,b,\n2,val,a,1\n3,test,,\n4,test,,\n")
    with pytest.raises(DataError, match=r"(?s)train has no labels of tasks.level.*test has no labels of any task"):
        Manifest.from_csv(path, packed=True, tasks=tasks)
    path.write_text(
        path.read_text(encoding="utf-8").replace("0,train,a,", "0,train,a,2").replace("3,test,,", "3,test,,3")
    )
    assert len(Manifest.from_csv(path, packed=True, tasks=tasks)) == 5


def test_files_that_are_not_there_and_an_empty_path_are_said_with_tasks_too(tmp_path):
    touch(tmp_path, "0")
    path = write(tmp_path, "path,split,it\n0,train,a\n1,train,b\n")
    with pytest.raises(DataError, match="1 of 2 files do not exist: .*1"):
        Manifest.from_csv(path, tasks={"it": Task(kind="classify")})
    with pytest.raises(DataError, match="no path in line 3"):
        Manifest.from_csv(write(tmp_path, "path,it\n0,a\n,b\n"), tasks={"it": Task(kind="classify")})
    with pytest.raises(DataError, match=r"no column path \(nearest: paths\); it has paths, it"):
        Manifest.from_csv(write(tmp_path, "paths,it\n0,a\n"), tasks={"it": Task(kind="classify")})


@given(
    counts=st.lists(st.integers(8, 20), min_size=2, max_size=4),
    unlabelled=st.integers(0, 10),
    seed=st.integers(0, 4),
)
@settings(max_examples=20, deadline=None)
def test_rows_are_divided_in_proportion_to_the_primary_tasks_classes(tmp_path_factory, counts, unlabelled, seed):
    root = tmp_path_factory.mktemp("rows")
    names = [f"c{code}" for code, count in enumerate(counts) for _ in range(count)] + [""] * unlabelled
    sizes = np.random.default_rng(seed).random(len(names))
    lines = [f"{row},{sizes[row]},{name}" for row, name in enumerate(names)]
    path = write(root, "\n".join(["path,size,it", *lines]))
    tasks = {"size": Task(kind="regress"), "it": Task(kind="classify")}
    manifest = Manifest.from_csv(path, packed=True, val=0.25, test=0.25, seed=seed, tasks=tasks)
    for code, count in enumerate(counts):
        tested = (manifest.labels[manifest.rows("test")] == code).sum()
        assert abs(tested - count / 4) < 2
    assert {"train", "val", "test"} == set(manifest.splits.tolist())
    again = Manifest.from_csv(path, packed=True, val=0.25, test=0.25, seed=seed, tasks=tasks)
    assert again.splits.tolist() == manifest.splits.tolist()


def test_groups_stay_whole_where_tasks_have_numbers_alone(tmp_path):
    lines = [f"{row},g{row // 4},{row}" for row in range(40)]
    path = write(tmp_path, "\n".join(["path,group,size", *lines]))
    manifest = Manifest.from_csv(path, packed=True, tasks={"size": Task(kind="regress")})
    assert manifest.classes == () and len(manifest.rows("test")) == 8
    for group in set(manifest.groups):
        assert len(set(manifest.splits[manifest.groups == group])) == 1


def test_a_folder_gives_the_class_and_manifests_beside_it_the_rest(tmp_path):
    touch(
        tmp_path, *[f"clips/{split}/{name}/{n}.mp4" for split in ("train", "test") for name in "ab" for n in range(2)]
    )
    boxes = write(tmp_path, "path,x,y,w,h\nclips/test/b/1.mp4,1,2,3,4\nclips/train/a/0.mp4,5,6,7,8\n", "boxes.csv")
    tasks = {"box": Task(kind="box", manifest=boxes), "action": Task(kind="classify", columns="label")}
    manifest = Manifest.from_folder(tmp_path / "clips", tasks=tasks)
    assert manifest.classes == ("a", "b") and manifest.splits.tolist() == ["test"] * 4 + ["train"] * 4
    labels = manifest.tasks["box"]
    found = {
        manifest.path(row).relative_to(tmp_path).as_posix(): labels.text(row) for row in np.flatnonzero(labels.known)
    }
    assert found == {
        "clips/test/b/1.mp4": ["1.0", "2.0", "3.0", "4.0"],
        "clips/train/a/0.mp4": ["5.0", "6.0", "7.0", "8.0"],
    }


def test_a_folder_has_no_other_column_than_label(tmp_path):
    touch(tmp_path, *[f"clips/{name}/{n}.mp4" for name in "ab" for n in range(9)])
    with pytest.raises(DataError, match=r"no column action, for tasks.action; it has label"):
        Manifest.from_folder(tmp_path / "clips", tasks={"action": Task(kind="classify")})


def test_levels_may_be_folders(tmp_path):
    touch(tmp_path, *[f"train/{name}/{n}.mp4" for name in ("1", "10", "9") for n in range(2)])
    manifest = Manifest.from_folder(tmp_path, tasks={"skill": Task(kind="ordinal", columns="label")})
    assert manifest.classes == ("1", "9", "10")
    assert manifest.label(2) == "10" and manifest.labels[2] == 2

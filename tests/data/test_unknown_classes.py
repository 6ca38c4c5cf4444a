"""Classes left out of training: which rows remain, which are scored, and what is refused."""

import numpy as np
import pytest

from finetune.data.manifest import Manifest
from finetune.data.unknown_classes import divide_by_classes, leave_out_classes, unknown_rows
from finetune.errors import DataError, RecipeError
from finetune.recipe.load import check_recipe

ROWS = [  # label, split, group
    ("cat", "train", "a"),
    ("dog", "train", "a"),
    ("fox", "train", "a"),  # familiar: the group trains
    ("cat", "val", "b"),
    ("fox", "val", "b"),
    ("cat", "test", "c"),
    ("dog", "test", "c"),
    ("fox", "test", "c"),
    ("fox", "train", "d"),  # a group without any known clip
    ("owl", "test", "c"),
]


@pytest.fixture
def manifest(tmp_path):
    return make_manifest(tmp_path, "path,label,split,group", [",".join(row) for row in ROWS])


def make_manifest(folder, header, lines, **options):
    for number in range(len(lines)):
        (folder / f"{number}.mp4").touch()
    rows = [f"{number}.mp4,{line}" for number, line in enumerate(lines)]
    (folder / "clips.csv").write_text("\n".join([header, *rows]) + "\n")
    return Manifest.from_csv(folder / "clips.csv", checked=False, **options)


def names(manifest):
    return [manifest.path(row).stem for row in range(len(manifest))]


def test_rows_of_the_classes_are_left_out_and_kept_apart(manifest):
    divided = leave_out_classes(manifest, ["fox", "owl"])
    assert divided.classes == ("cat", "dog")
    assert [divided.label(row) for row in range(len(divided))] == ["cat", "dog", "cat", "cat", "dog"]
    assert divided.unknown.classes == ("fox", "owl")
    assert names(divided.unknown) == ["2", "4", "7", "8", "9"]
    assert [divided.unknown.label(row) for row in range(5)] == ["fox", "fox", "fox", "fox", "owl"]
    assert "5 clips of fox, owl" in divided.notes[-1]
    assert len(divided.for_split("val").unknown) == 5  # stays with parts of the manifest


def test_only_clips_whose_group_is_in_no_other_split_are_scored(manifest):
    divided = leave_out_classes(manifest, ["fox", "owl"])
    assert names(unknown_rows(divided, "test")) == ["7", "8", "9"]
    assert set(unknown_rows(divided, "test").splits) == {"test"}
    assert names(unknown_rows(divided, "val")) == ["4", "8"]
    assert unknown_rows(manifest, "test") is None


def test_without_groups_all_clips_of_the_classes_are_scored(tmp_path):
    manifest = make_manifest(
        tmp_path, "path,label,split", ["cat,train", "dog,train", "fox,train", "cat,test", "fox,val"]
    )
    assert names(unknown_rows(leave_out_classes(manifest, ["fox"]), "test")) == ["2", "4"]


def test_no_row_is_scored_where_all_groups_are_familiar(tmp_path):
    manifest = make_manifest(
        tmp_path, "path,label,split,group", ["cat,train,a", "dog,train,a", "fox,test,a", "cat,test,b"]
    )
    assert unknown_rows(leave_out_classes(manifest, ["fox"]), "test") is None


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["foxx"], r"evaluate.unknown: there is no class 'foxx' \(nearest: fox\)"),
        (["fox", "owl", "dog"], "leaves cat to train on; a classifier needs at least two classes"),
        (["fox", "owl", "dog", "cat"], "leaves no class to train on"),
    ],
)
def test_wrong_classes_are_refused(manifest, classes, message):
    with pytest.raises(DataError, match=message):
        leave_out_classes(manifest, classes)


def test_clips_with_several_classes_are_refused(tmp_path):
    manifest = make_manifest(tmp_path, "path,label,split", ["cat;fox,train", "dog,train", "fox,test"], multilabel=True)
    with pytest.raises(DataError, match="takes one class per clip"):
        leave_out_classes(manifest, ["fox"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": {"multilabel": True}}, "is not for data.multilabel, where a clip may also have known classes"),
        ({"tasks": {"level": {"kind": "ordinal", "levels": ["low", "high"]}}}, "is not for recipes with tasks"),
    ],
)
def test_a_recipe_refuses_them_before_anything_starts(settings, message):
    with pytest.raises(RecipeError, match=message):
        check_recipe({"evaluate": {"unknown": ["fox"]}, **settings}, where="recipe.yaml")


def test_rows_are_divided_in_the_order_of_the_given_classes(manifest):
    divided = divide_by_classes(manifest, ("fox", "cat"))
    assert divided.classes == ("fox", "cat")
    assert divided.labels.tolist() == [1, 0, 1, 0, 1, 0, 0]
    assert divided.unknown.classes == ("dog", "owl")
    assert divide_by_classes(manifest, manifest.classes).unknown is None
    np.testing.assert_array_equal(divide_by_classes(manifest, manifest.classes).labels, manifest.labels)

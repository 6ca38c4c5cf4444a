"""Damaged and hostile files of objects give rows or an error in words, never another exception."""

import json
import os
import random

import object_files as files
import pytest
from mutated import ODD, mutate, mutate_text, replace_nth

from finetune.annotations.objects.import_objects import ObjectImportOptions, import_objects, write_object_manifest
from finetune.annotations.objects.object_formats import holds_objects
from finetune.data.object_labels import parse_objects
from finetune.data.tables import read_table
from finetune.errors import DataError, FinetuneError

ROUNDS = 200 if os.environ.get("FINETUNE_ALL") else 30  # of each of the 8 samples


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    files.make_video(folder / "videos" / "rec1.mp4")
    files.make_frames(folder / "images" / "rec1")
    return folder / "videos"


def check(result):
    for row in result.rows:
        assert 0 <= row.start < row.end and 0 <= row.frame < 8
        for item in row.objects:
            assert item.name.strip() and item.w > 0 and item.h > 0 and item.x >= 0 and item.y >= 0
            assert item.x + item.w <= row.size[0] + 0.002 and item.y + item.h <= row.size[1] + 0.002
    for problem in result.problems:
        assert "Traceback" not in problem and len(problem) < 3000


@pytest.mark.parametrize("sample", files.SAMPLES)
def test_a_mutated_file_gives_rows_or_an_error_in_words(sample, videos, tmp_path):
    draw = random.Random(sample)
    outcomes = {"rows": 0, "problems": 0}
    for number in range(ROUNDS):
        path = files.write_sample(sample, tmp_path)
        changed = path
        if sample == "yolo" and number % 3 == 0:
            changed = tmp_path / "labels/train/rec1_2.txt"
        elif sample == "mot" and number % 3 == 0:
            changed = tmp_path / "seqinfo.ini"
        if number % 2 and changed.suffix != ".json":
            changed.write_text(mutate_text(changed.read_text(), draw), encoding="utf-8", errors="replace")
        else:
            mutate(changed, draw)
        try:
            holds_objects([path], None, None)
            folder = videos.parent / "images" if sample == "voc" else videos
            result = import_objects([path], ObjectImportOptions(files.SAMPLES[sample][2], folder))
        except DataError as error:
            pytest.fail(f"{error} should be a problem of the file")
        outcomes["problems"] += bool(result.problems)
        outcomes["rows"] += bool(result.rows)
        check(result)
        if result.rows:
            write_object_manifest(result, tmp_path / "out" / "clips.csv")
            table = read_table(tmp_path / "out" / "clips.csv")
            assert [tuple(parse_objects(cell)) for cell in table["objects"]] == [row.objects for row in result.rows]
        else:
            with pytest.raises(FinetuneError):
                result.require_rows(skip_problems=True)
    assert outcomes["problems"] > ROUNDS / 8 and outcomes["rows"] > 1, outcomes


@pytest.mark.parametrize("sample", [name for name, (file, _, _) in files.SAMPLES.items() if file.endswith(".json")])
def test_every_value_of_a_json_file_may_be_of_another_type(sample, videos, tmp_path):
    name, content, kind = files.SAMPLES[sample]
    draw = random.Random(sample)
    path = tmp_path / name
    for place in range(1000):
        for value in (None, draw.choice(ODD)):
            tree = json.loads(content)
            if not replace_nth(tree, place, value):
                return
            path.write_text(json.dumps(tree), encoding="utf-8")
            check(import_objects([path], ObjectImportOptions(kind, videos)))


BOMB = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "lol"}">' for n in range(10))
HOSTILE = {
    "xml entities": f"<!DOCTYPE x [{BOMB}]><annotations><track label='&l9;'><box frame='1'/></track></annotations>",
    "deep xml": "<annotations>" * 100_000,
    "deep json": '{"images": [], "annotations": ' + "[" * 200_000,
    "deep closed json": '{"images": ' + "[" * 5000 + "]" * 5000 + ', "annotations": []}',
    "yaml aliases": "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\ntrain: .\n",
    "deep yaml": "names: " + "[" * 2000 + "\ntrain: x\n",
    "huge range": files.CVAT_VIDEO.replace("<stop_frame>7", "<stop_frame>999999999"),
    "huge track": files.CVAT_VIDEO.replace('frame="4"', 'frame="999999999"'),
    "huge box": files.CVAT_VIDEO.replace('"20.0"', f'"{"9" * 300}"'),
    "huge number in mot": files.MOT.replace("8,12", f"{'9' * 400},1e999"),
    "huge identity": files.MOT.replace("3,1,", f"3,{'9' * 30},"),
    "huge frame": files.MOT.replace("3,1,", f"{'9' * 30},1,"),
    "huge ids": json.dumps(files.COCO).replace("700", "9" * 4000),
    "huge integers": json.dumps(files.COCO).replace("700", "9" * 5000),
    "huge label studio": json.dumps(files.LABEL_STUDIO_VIDEO).replace('"framesCount": 8', '"framesCount": 1000000000'),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_quickly(kind, videos, tmp_path):
    path = tmp_path / "file"
    path.write_text(HOSTILE[kind])
    holds_objects([path], None, None)
    result = import_objects([path], ObjectImportOptions(videos=videos))
    check(result)
    assert result.problems or kind == "huge ids"

"""`finetune search` as a user calls it: tables, JSON, CSV, the page, and what is wrong with a call."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from grey import TINY, make_clip
from indexed import write_index

from finetune.cli.search_output import print_missing
from finetune.data.read import read_csv
from finetune.retrieval.hits import Hit, Hits
from finetune.retrieval.query import Query
from finetune.vector_index.entry import Entry
from finetune.video.encode import write_video


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """The current folder with clips and an index of them: rows 0 to 3 are alike, in two groups; 4 and 5 are windows."""
    monkeypatch.chdir(tmp_path)
    entries = []
    for row in range(4):
        clip = make_clip(tmp_path / f"clips/{row}, ü.mp4", 6, start=16 + row)
        labels = {"label": ["kick"], "place": ["in", "out"]}
        entries.append(Entry(str(clip), labels=labels, group=f"p{row // 2}", split="train" if row else "test"))
    entries += [Entry("/gone/=rec.mp4", 0.0, 2.5), Entry("/gone/=rec.mp4", 2.5, 5.0)]
    angles = np.arange(6) / 10
    write_index(tmp_path / "index", entries, np.stack([np.cos(angles), np.sin(angles)], 1))
    return tmp_path


def test_hits_are_a_table_for_each_query(finetune, clips):
    status, out, err = finetune("search", "index", "row:0", "clips/3, ü.mp4", "--top-k", 2)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "query row:0, clips/0, ü.mp4, kick; in;out",
        "score  row  label  place   clip",
        "0.980    2  kick   in;out  clips/2, ü.mp4",
        "0.955    3  kick   in;out  clips/3, ü.mp4",
        "",
        "query clips/3, ü.mp4, kick; in;out",
        "score  row  label  place   time     clip",
        "0.995    4  –      –       0–2.5 s  /gone/=rec.mp4",
        "0.980    1  kick   in;out           clips/1, ü.mp4",
    ]


def test_json_has_each_query_with_its_hits(finetune, clips):
    status, out, err = finetune("search", "index", "/gone/=rec.mp4@0-2.5", "--json", "--same-group", "--top-k", 2)
    assert (status, err) == (0, "")
    (query,) = json.loads(out)
    hits = query.pop("hits")
    assert query == {"query": "/gone/=rec.mp4@0-2.5", "row": 4, "path": "/gone/=rec.mp4", "start": 0.0, "end": 2.5}
    assert [hit["row"] for hit in hits] == [3, 5]
    assert hits[0] == {
        "row": 3,
        "score": 0.995004,
        "path": str(clips / "clips/3, ü.mp4"),
        "labels": {"label": ["kick"], "place": ["in", "out"]},
        "group": "p1",
        "split": "train",
    }


def test_a_csv_of_hits_is_read_as_rows_of_a_manifest(finetune, clips):
    status, out, _ = finetune("search", "index", "row:0", "row:5", "--within", "label=kick", "--csv", "out/hits.csv")
    assert (status, out.splitlines()[-1]) == (0, "out/hits.csv")
    with (clips / "out/hits.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["query"], row["rank"], row["row"], row["label"], row["place"]) for row in rows] == [
        *(("row:0", str(rank), str(row), "kick", "in;out") for rank, row in enumerate((2, 3), 1)),
        *(("row:5", str(rank), str(row), "kick", "in;out") for rank, row in enumerate((3, 2, 1, 0), 1)),
    ]
    table = read_csv(clips / "out/hits.csv", labels="of tasks")
    assert (table["path"], table["label"]) == ([row["path"] for row in rows], ["kick"] * 6)


def test_where_rows_are_left_out_it_is_told(finetune, clips):
    status, out, err = finetune("search", "index", "row:4", "--within", "path=/gone")
    assert (status, out) == (0, "query row:4, /gone/=rec.mp4, 0–2.5 s\n")
    assert err == "row:4: no hits; all other rows are of the query's own file or group, which --same-group keeps\n"
    _, out, err = finetune("search", "index", "row:4", "--within", "path=/gone", "--same-group", "--top-k", 1000)
    assert (out.count("\n"), err) == (3, "row:4: 1 hit; all other rows overlap the query or a hit\n")


def test_windows_left_out_as_they_overlap_a_hit_are_told_apart_from_those_of_the_group(capsys):
    query = Query("words", words="words")
    hit = Hit(0, 0.5, Entry("/gone/rec.mp4", 0.0, 2.5))
    print_missing([Hits(query, (hit,))], 10, rows=3, same_group=False)
    assert capsys.readouterr().err == "words: 1 hit; all other rows overlap a hit\n"
    print_missing([Hits(replace(query, words=None, entry=Entry("/new.mp4")), (hit,))], 10, rows=3, same_group=False)
    own = "are of the query's own file or group, which --same-group keeps,"
    assert capsys.readouterr().err == f"words: 1 hit; all other rows {own} or overlap a hit\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index"], "index: nothing to search for; name a video, a picture, or a row such as row:0"),
        (["index", "row:9", "nowhere.mp4"], "nowhere.mp4: there is no such file, and the index has no row of it"),
        (["index", "row:0", "--text", "a kick"], "which knows no words"),
        (["index", "--evaluate", "--approximate"], "omit other queries, --text, --approximate, --csv and --page"),
        (["index", "row:0", "--within", "label=kik"], "index: no row has label=kik (nearest: kick)"),
        (["index", "bad.mp4", "bad.png"], "bad.png: "),
        (["clips", "row:0"], "clips: is not an index: it has no index.json; make one with: finetune index SOURCE"),
        (["empty", "row:0"], "empty: the index is empty; add videos"),
        (["newer", "row:0"], "newer: was written by a newer version of finetune (index format 99"),
        (["damaged", "row:0"], ".safetensors: is missing: the index is incomplete"),
        (["index", "row:0", "--csv", "clips"], "clips: "),
        (["index", "row:0", "--csv", "clips/0, ü.mp4"], "clips/0, ü.mp4: is also a query; write to another file"),
        (["index", "row:0", "--csv", "a", "--page", "./a"], "a: --csv and --page need a file each"),
        (["index", "bad.mp4", "row:123456789012345678901"], "there is no row 123456789012345678901"),
        (["index", "bad.mp4", "row:x"], "bad.mp4: "),
        (["index", "row:0", "--page", "bad.mp4/page.html"], "bad.mp4"),
    ],
)
def test_a_mistake_is_named_in_plain_words(finetune, clips, arguments, message):
    for name in ("bad.mp4", "bad.png"):
        (clips / name).write_bytes(b"no video")
    write_index(clips / "empty", [], np.empty((0, 2)))
    write_index(clips / "newer", 1)
    text = (clips / "newer/index.json").read_text()
    (clips / "newer/index.json").write_text(text.replace('"format": 1', '"format": 99'))
    write_index(clips / "damaged", 1)
    next((clips / "damaged").glob("*.safetensors")).unlink()
    status, out, err = finetune("search", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_rows_are_searched_without_torch_and_without_decoding(clips):
    code = (
        "import sys; from finetune.cli.main import main; sys.argv = ['finetune', *sys.argv[1:]]\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "heavy = {'torch', 'timm', 'scipy', 'sklearn', 'av', 'cv2', 'matplotlib', 'usearch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    arguments = ["search", "index", "row:0", "--json", "--csv", "hits.csv", "--within", "label=kick"]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, timeout=60)


def test_the_page_has_a_picture_of_each_clip_that_can_be_read(finetune, clips):
    status, out, _ = finetune("search", "index", "row:0", "--page", "page.html")
    assert (status, out.splitlines()[-1]) == (0, "page.html")
    html = (clips / "page.html").read_text(encoding="utf-8")
    assert html.count("data:image/jpeg;base64,") == 3, "of the query and of two hits"
    assert html.count("<video ") == 3
    assert "there is no such file" in html
    assert (clips / "clips/2, ü.mp4").as_uri() in html


def test_without_the_run_that_made_an_index_only_its_rows_are_searched(finetune, clips):
    write_index(clips / "of a run", 9, kind="run")
    status, _, err = finetune("search", "of a run", "clips/0, ü.mp4")
    assert (status, "of a run: was made with a run that cannot be opened (tiny: " in err) == (2, True), err
    assert "without it, only rows of the index can be searched for, such as row:0" in err
    assert finetune("search", "of a run", "row:0")[0] == 0


@pytest.mark.slow
def test_a_new_copy_of_an_indexed_clip_a_part_and_a_picture_find_it(finetune, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = [np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8) for number in range(4)]
    frames = [np.kron(frame, np.ones((8, 8, 1), np.uint8)) for frame in frames]
    (tmp_path / "clips").mkdir()
    for number, frame in enumerate(frames):
        write_video(tmp_path / f"clips/{number}.mp4", np.stack([frame] * 6))
    write_video(tmp_path / "joined.mp4", np.repeat(np.stack(frames), 6, axis=0))
    cv2.imwrite("picture.png", frames[3][..., ::-1])
    shutil.copy("clips/1.mp4", "copy.mp4")
    settings = ["model.weights=none", "clip.num_frames=2", "clip.size=32", "train.cache=off"]
    status, _, err = finetune("index", "clips", "--out", "index", f"model.backbone={TINY}", *settings)
    assert status == 0, err
    queries = ["copy.mp4", "joined.mp4@0.48-0.72", "picture.png", "clips/0.mp4"]
    status, out, err = finetune("search", "index", *queries, "--json", "--top-k", 1)
    found = [query["hits"][0] for query in json.loads(out)]
    assert [hit["row"] for hit in found][:3] == [1, 2, 3], err
    assert found[0]["score"] > 0.9999
    assert [("row" in query) for query in json.loads(out)] == [False, False, False, True]


def test_approximate_search_tells_its_recall(finetune, clips):
    pytest.importorskip("usearch")
    status, out, err = finetune("search", "index", "row:0", "--approximate")
    assert (status, out) == finetune("search", "index", "row:0")[:2]
    assert "approximate search: recall@10 1.000, measured on rows of the index\n" in err

"""Comparisons of runs whose predictions the tests choose, and the page as a browser reads it."""

import json
import re
from html.parser import HTMLParser

import pytest
from written import KINDS, answers_of, change, write_run

from finetune.errors import RunError
from finetune.report.compare.compare_runs import compare_runs, flatten_settings
from finetune.report.compare.page import write_compare_page

ODD = "<img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Its text, its rows of tables, its tags with their attributes."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.parts, self.rows, self.heading = [], [], [], [], ""
        self.feed(html)
        self.text = " ".join("".join(self.parts).split())
        self.rows = [" ".join(" ".join(row).split()) for row in self.rows]
        self.heading = re.sub("[\u2066-\u2069]", "", " ".join(self.heading.split()))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "line", "rect", "use", "path"}:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.parts.append(data)
            if "tr" in self.open and self.rows:
                self.rows[-1].append(data)
            if "h1" in self.open:
                self.heading += data


@pytest.fixture
def run(tmp_path):
    """Write the run `name` with these clips wrong."""
    return lambda name, wrong=(), **how: write_run(tmp_path / name, answers_of(wrong), **how)


def page_of(result, tmp_path):
    write_compare_page(result, tmp_path / "page.html")
    return Page((tmp_path / "page.html").read_text(encoding="utf-8"))


def test_runs_that_differ_by_a_clip_or_two_show_no_evidence_of_a_difference(run, tmp_path):
    result = compare_runs([run("one", [0, 1, 2]), run("two", [1, 2])])
    pair = result["pairs"][0]
    assert (pair["verdict"], pair["only_first"], pair["only_other"]) == ("none", 0, 1)
    assert page_of(result, tmp_path).heading.startswith(
        "There is no evidence of a difference between “one” and “two”: 92.5 % vs. 95.0 % top-1 accuracy "
        "on 40 test clips from 10 groups, difference +2.5 points (95 % interval −"
    )


def test_a_run_that_is_better_in_most_groups_is_called_better(run, tmp_path):
    result = compare_runs([run("old", range(20)), run("new", [20, 21])])
    assert result["pairs"][0]["verdict"] == "other"
    assert result["pairs"][0]["difference"] == pytest.approx(0.45)
    page = page_of(result, tmp_path)
    assert page.heading.startswith("“new” is better than “old” by 45.0 points (95 % interval ")
    assert page.heading.endswith("): 95.0 % vs. 50.0 % top-1 accuracy on 40 test clips from 10 groups.")
    turned = compare_runs([tmp_path / "new", tmp_path / "old"])
    assert turned["pairs"][0]["verdict"] == "first"
    assert "A is better by 45.0 points" in page_of(turned, tmp_path).text


def test_a_run_and_its_copy_do_not_differ(run, tmp_path):
    result = compare_runs([run("one", [3]), run("copy", [3])])
    low, high = result["pairs"][0]["interval"]
    assert -0.2 < low < 0 < high == -low  # on other clips another run with these answers may differ
    assert result["pairs"][0]["mcnemar_p"] == 1.0
    text = page_of(result, tmp_path).text
    assert "None: both runs are correct on the same clips." in text
    assert "The recipes are identical." in text
    assert "Warnings" not in text


def test_one_group_gives_no_verdict_and_no_interval(run, tmp_path):
    alone = [run(name, wrong, group_of=lambda number: "g") for name, wrong in (("a", range(20)), ("b", ()))]
    result = compare_runs(alone)
    assert result["pairs"][0]["words"] == "no verdict: 1 group is too few"
    page = page_of(result, tmp_path)
    assert page.heading.startswith("Too few groups (1 group) to compare “b” with “a”: 100.0 % vs. 50.0 %")
    assert "too few for an interval" in page.text


def test_several_runs_are_compared_with_the_first_and_their_p_values_adjusted(run, tmp_path):
    runs = [run("a", range(16)), run("b", range(15)), run("c"), run("d", range(40))]
    result = compare_runs(runs)
    assert [pair["verdict"] for pair in result["pairs"]] == ["none", "other", "first"]
    assert [pair["other"] for pair in result["pairs"]] == [1, 2, 3]
    raw = [pair["mcnemar_p"] for pair in result["pairs"]]
    assert [pair["adjusted_p"] for pair in result["pairs"]] == pytest.approx([raw[0], 2 * raw[1], 3 * raw[2]])
    page = page_of(result, tmp_path)
    assert page.heading == (
        "Compared with “a” on 40 test clips from 10 groups, “c” is better; “d” is worse; "
        "there is no evidence of a difference for “b”."
    )
    assert "For 3 comparisons, p-values are adjusted" in page.text


@pytest.mark.parametrize("group_in", ["predictions", "manifest"])
def test_groups_come_from_the_predictions_or_else_from_the_manifest(run, group_in):
    result = compare_runs([run("a", [1], group_in=group_in), run("b", [2], group_in=group_in)])
    assert (result["num_groups"], result["pairs"][0]["num_units"]) == (10, 10)
    assert result["caveats"] == []


def test_without_groups_clips_count_and_the_page_says_so(run, tmp_path):
    result = compare_runs([run("a", [1], group_in="nowhere"), run("b", [2], group_in="nowhere")])
    assert (result["num_groups"], result["pairs"][0]["num_units"]) == (None, 40)
    assert "There are no groups" in page_of(result, tmp_path).text


def test_where_mcnemar_and_the_interval_disagree_a_warning_says_so(tmp_path):
    runs = [
        write_run(tmp_path / name, answers_of(wrong, clips=120), group_of=lambda number: f"g{max(0, number - 108)}")
        for name, wrong in (("a", range(12)), ("b", ()))
    ]
    result = compare_runs(runs)
    assert result["pairs"][0]["mcnemar_p"] < 0.001
    assert result["pairs"][0]["verdict"] == "none"
    assert "McNemar's test finds a significant difference between A and B (p < 0.001), but the interval" in str(
        result["caveats"]
    )
    assert "rely on the interval" in page_of(result, tmp_path).text


def test_only_clips_that_all_runs_were_tested_on_count(tmp_path, run):
    fewer = write_run(tmp_path / "fewer", answers_of([0], clips=30))
    result = compare_runs([run("all", [0, 1, 39]), fewer])
    assert (result["num_rows"], result["left_out"]) == (30, [10, 0])
    assert result["runs"][0]["right"] == pytest.approx(28 / 30)
    assert result["runs"][0]["value"] == pytest.approx(37 / 40)
    text = page_of(result, tmp_path).text
    assert "10 of 40 clips of A are not compared: not all runs were evaluated on them." in text
    assert "clips of B" not in text


def test_moved_clips_are_matched_by_folder_and_name_and_the_page_says_so(run, tmp_path):
    moved = run("moved", [5], path_of=lambda number: f"/elsewhere/{number % 4}/clip{number:03}.mp4")
    result = compare_runs([run("here", [5, 6]), moved])
    assert (result["num_rows"], result["by_name"]) == (40, True)
    assert "matched by parent folder and file name" in page_of(result, tmp_path).text


def test_clips_and_folders_that_are_links_to_the_same_videos_match(run, tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "linked").symlink_to(real, target_is_directory=True)
    for number in range(40):
        (real / f"{number}.mp4").write_text("")
        (tmp_path / f"other name {number}.mp4").symlink_to(real / f"{number}.mp4")
    runs = [
        run("real", [1], path_of=lambda number: f"{real}/{number}.mp4"),
        run("by folder", [2], path_of=lambda number: f"{tmp_path}/linked/../linked/{number}.mp4"),
        run("by file", [3], path_of=lambda number: f"{tmp_path}/other name {number}.mp4"),
    ]
    result = compare_runs(runs)
    assert (result["num_rows"], result["by_name"], result["left_out"]) == (40, False, [0, 0, 0])


def test_names_that_several_clips_have_match_nothing(run):
    runs = [run(name, path_of=lambda number, n=name: f"/{n}/{number}/x/clip.mp4") for name in ("a", "b")]
    with pytest.raises(RunError, match=r"no clip is in all of these runs: A \(a\) has /a/0/x/clip\.mp4, B .*--split"):
        compare_runs(runs)


def test_clips_that_are_labelled_differently_are_named_and_do_not_count(run, tmp_path):
    answers = answers_of()
    answers[7] = ("wave", "wave")
    result = compare_runs([run("a"), write_run(tmp_path / "b", answers)])
    assert result["num_rows"] == 39
    assert result["relabelled"] == [{"path": "/data/3/clip007.mp4", "labels": ["sit", "wave"]}]
    page = page_of(result, tmp_path)
    assert "Not compared, because the labels differ between runs: 1 clip (/data/3/clip007.mp4)." in page.text
    assert "/data/3/clip007.mp4 sit wave" in page.rows


def test_runs_without_one_label_in_common_are_refused(run, tmp_path):
    other = write_run(tmp_path / "b", [("other", "other")] * 40)
    with pytest.raises(RunError, match="have different labels"):
        compare_runs([run("a"), other])


def test_other_classes_and_another_protocol_give_warnings(run, tmp_path):
    result = compare_runs([run("a"), run("b", classes=[*KINDS, "run"], protocol={"views": 3, "interval": "of that"})])
    assert [what for what, _ in result["caveats"]] == [
        "B has 1 class not in A: “\u2068run\u2069”.",
        "The evaluation protocols differ: views per clip: 1 (A) or 3 (B).",
    ]


def test_only_settings_that_differ_are_listed(run, tmp_path):
    recipe = "seed: 1\ndata: {manifest: clips.csv}\nmodel: {backbone: tiny, temporal: gru}\n"
    result = compare_runs(
        [run("a"), run("b", recipe=recipe + "phases: [{unfreeze: head, epochs: 5}]\nextra: [1, 2]\n")]
    )
    assert result["recipes"] == [
        ("seed", ["0", "1"]),
        ("model.temporal", ["mean", "gru"]),
        ("phases.0.epochs", ["3", "5"]),
        ("extra", [None, "[1, 2]"]),
    ]
    assert "phases.0.epochs 3 5" in page_of(result, tmp_path).rows
    assert flatten_settings({"a": {"b": True, "c": None}, "d": {}}) == {"a.b": "true", "a.c": "null", "d": "{}"}


def test_runs_that_differ_only_in_the_seed_differ_at_random(run, tmp_path):
    recipe = (run("a") / "recipe.yaml").read_text().replace("seed: 0", "seed: 7")
    assert "Only the seed differs" in page_of(compare_runs([tmp_path / "a", run("b", recipe=recipe)]), tmp_path).text


def test_a_recipe_is_read_without_following_what_it_refers_to(run, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    result = compare_runs([run("a"), run("b", recipe="seed: ${oc.env:SECRET}\n")])
    assert dict(result["recipes"])["seed"] == ["0", "${oc.env:SECRET}"]


def test_changed_predictions_start_with_the_most_confident_mistake(run, tmp_path):
    result = compare_runs([run("a", range(30), probability=0.6), run("b", [39])])
    changed = result["pairs"][0]["changed"]
    assert (len(changed["only_other"]), len(changed["only_first"])) == (30, 1)
    table = tmp_path / "a/evaluation/predictions.csv"
    table.write_text(table.read_text().replace("clip017.mp4,clap,jump,0.6", "clip017.mp4,clap,jump,0.99"))
    result = compare_runs([tmp_path / "a", tmp_path / "b"])
    assert result["pairs"][0]["changed"]["only_other"][0]["path"] == "/data/1/clip017.mp4"
    page = page_of(result, tmp_path)
    rows = [row for row in page.rows if row.startswith(("0/", "1/", "2/", "3/"))]
    assert rows[0] == "3/clip039.mp4 sit 60.0 % wave 80.0 %"
    assert rows[1] == "1/clip017.mp4 clap 80.0 % jump 99.0 %"
    assert len(rows) == 1 + 20
    assert "Shown: 20 of 30 clips." in page.text


def test_gains_and_losses_are_counted_class_by_class(run, tmp_path):
    result = compare_runs([run("a", [0, 4, 8, 1]), run("b", [1, 5, 2])])
    rows = {row["class"]: row for row in result["pairs"][0]["classes"]}
    assert rows["wave"] == {"class": "wave", "clips": 10, "first": 7, "gained": 3, "lost": 0}
    assert rows["clap"] == {"class": "clap", "clips": 10, "first": 9, "gained": 0, "lost": 1}
    assert set(rows) == {"wave", "clap", "jump"}
    assert next(iter(rows)) == "wave"
    assert "wave 10 7 3 0 +3" in page_of(result, tmp_path).rows


def test_multilabel_clips_are_correct_where_all_classes_match(tmp_path):
    truth = ["a;b", "b", "", "a;c"] * 10
    predicted = ["b;a", "b", "", "a"] * 10
    one = write_run(tmp_path / "one", list(zip(truth, truth, strict=True)), kind="multilabel")
    two = write_run(tmp_path / "two", list(zip(truth, predicted, strict=True)), kind="multilabel")
    result = compare_runs([one, two])
    pair = result["pairs"][0]
    assert (result["metric"], pair["difference"], pair["only_first"]) == ("mAP", -0.25, 10)
    assert pair["classes"] == [{"class": "c", "clips": 10, "first": 10, "gained": 0, "lost": 10}]
    assert "exactly its true classes" in page_of(result, tmp_path).text


def test_runs_of_different_kinds_of_task_are_refused(run, tmp_path):
    with pytest.raises(RunError, match="different kinds of task"):
        compare_runs([run("a"), write_run(tmp_path / "b", answers_of(), kind="multilabel")])


def test_runs_without_a_task_of_classes_are_refused_and_one_beside_others_is_compared(run, tmp_path):
    runs, box = [run("a"), run("b")], {"kind": "box", "mean_iou": 0.5, "mean_iou_ci": None}
    files = [folder / "evaluation/results.json" for folder in runs]
    for file in files:
        change(file, tasks={"where": box} | json.loads(file.read_text())["tasks"])
    assert compare_runs(runs)["metric"] == "top-1"
    for file in files:
        change(file, tasks={"where": box})
    with pytest.raises(RunError, match=r"needs a task with classes; this run has where \(box\)"):
        compare_runs(runs)


def test_curves_differ_in_colour_dash_and_letter(run, tmp_path):
    runs = [run(f"r{number}") for number in range(9)]
    html_of = page_of(compare_runs(runs), tmp_path)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    figure = re.search(r'<svg[^>]*aria-label="Top-1 accuracy.*?</svg>', html, re.DOTALL)[0]
    lines = re.findall(
        r'style="fill: none; stroke(?:-dasharray: ([^;]*); stroke-dashoffset: 0; stroke)?: (var\(--run-\d\))', figure
    )
    assert len({colour for _, colour in lines}) == 8
    assert len({dash for dash, _ in lines}) == 8
    assert [letter for letter in "ABCDEFGHI" if f">{letter}</text>" in figure] == list("ABCDEFGH")
    assert "Only the first 8 runs are shown." in html_of.text


def test_a_cross_validated_run_takes_part_without_curves(run, tmp_path):
    folds = run("folds")
    (folds / "metrics.jsonl").unlink()
    change(
        folds / "evaluation/results.json", folds=[{"run": "fold-1", "num_rows": 20}, {"run": "fold-2", "num_rows": 20}]
    )
    text = page_of(compare_runs([run("a"), folds]), tmp_path).text
    assert "cross-validated, 2 folds" in text
    assert "B has no curve: it was cross-validated" in text


def test_runs_of_the_same_name_are_named_with_their_folders(run):
    result = compare_runs([run("a/run"), run("b/run")])
    assert [row["name"] for row in result["runs"]] == ["a/run", "b/run"]


def test_another_split_lies_in_its_own_folder(tmp_path):
    runs = [write_run(tmp_path / name, answers_of(), split="val") for name in ("a", "b")]
    assert compare_runs(runs, split="val")["num_rows"] == 40
    assert compare_runs(runs)["split"] == "val"
    with pytest.raises(RunError, match=r"a: has no evaluation/results\.json; make it with `finetune evaluate "):
        compare_runs(runs, split="test")
    for name in ("results.json", "predictions.csv"):  # as training leaves them where there is no split test
        (runs[0] / "evaluation/val" / name).rename(runs[0] / "evaluation" / name)
    assert compare_runs(runs)["split"] == compare_runs(runs, split="val")["split"] == "val"


def test_intervals_of_several_comparisons_are_wider_each(tmp_path):
    wrong = {"a": (0, 5, 9), "b": (1, 12), "c": (7,)}
    runs = [write_run(tmp_path / name, answers_of(rows)) for name, rows in wrong.items()]
    one, two = (compare_runs(compared)["pairs"][0]["interval"] for compared in (runs[:2], runs))
    assert two[0] < one[0] < one[1] < two[1]


def test_all_runs_that_cannot_be_compared_are_named_at_once(run, tmp_path):
    bare = run("has no predictions")
    (bare / "evaluation/predictions.csv").unlink()
    with pytest.raises(RunError) as error:
        compare_runs([run("a"), bare, tmp_path / "gone"], split="test")
    assert f"finetune evaluate '{bare}'" in str(error.value)
    assert f"{tmp_path / 'gone'}: there is no such folder" in str(error.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("evaluation/results.json", "{", "not JSON"),
        (
            "evaluation/results.json",
            '{"schema": 9}',
            "has format version 9; this finetune reads up to 1: update finetune",
        ),
        (
            "evaluation/predictions.csv",
            "path,label\na,b\n",
            "row 2: cannot be read as path,label,predicted,probability",
        ),
        ("metrics.jsonl", "{}\n", "has a line without an epoch number"),
        ("recipe.yaml", "a: [", "cannot be read as YAML"),
    ],
)
def test_a_damaged_file_is_named(run, file, content, message):
    damaged = run("b")
    (damaged / file).write_text(content)
    with pytest.raises(RunError, match=message) as error:
        compare_runs([run("a"), damaged])
    assert str(damaged / file) in str(error.value)


def test_fewer_than_two_runs_or_the_same_twice_are_refused(run):
    one = run("a")
    with pytest.raises(RunError, match="needs at least two runs, got 1: finetune compare RUN RUN"):
        compare_runs([one])
    with pytest.raises(RunError, match="named more than once"):
        compare_runs([one, one / "../a"])


def test_names_show_as_text_and_never_become_markup(tmp_path):
    classes = [ODD, "</script><b>x</b>"]
    runs = []
    for name, wrong in (("<u>a<", [0, 1]), ("b&amp;", [1])):
        answers = answers_of(wrong, classes=classes)
        path_of = lambda number: f"/data/<i>{number % 4}</i>/{number}.mp4"  # noqa: E731
        recipe = f"seed: '<s>{len(wrong)}</s>'\n"
        runs.append(write_run(tmp_path / name, answers, path_of=path_of, recipe=recipe, protocol={"fit": f"<q>{name}"}))
    page = page_of(compare_runs(runs), tmp_path)
    tags = [tag for tag, _ in page.elements]
    assert not {"img", "u", "s", "q"} & set(tags)
    assert tags.count("i") == 2  # of the scale
    assert tags.count("script") == 1
    assert all(text in page.text for text in (ODD, "<u>a<", "b&amp;", "<i>0</i>/0.mp4", "<s>2</s>", "<q>b&amp;"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]


def test_the_page_needs_nothing_from_outside_and_its_links_lead_somewhere(run, tmp_path):
    page = page_of(compare_runs([run("a", [1]), run("b")]), tmp_path)
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for _, attributes in page.elements if attributes.get("href")]
    assert links and {link[1:] for link in links} <= set(ids)
    assert "http://" not in (tmp_path / "page.html").read_text()


def test_the_same_runs_give_the_same_bytes_and_plain_values(run, tmp_path):
    runs = [run("a", [1, 2]), run("b", [2])]
    write_compare_page(compare_runs(runs), tmp_path / "one.html")
    write_compare_page(compare_runs(runs), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert json.loads(json.dumps(compare_runs(runs)))["pairs"][0]["only_other"] == 1


def test_a_page_that_cannot_be_written_is_a_run_error(run, tmp_path):
    result = compare_runs([run("a"), run("b")])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written: .*--out"):
        write_compare_page(result, tmp_path / "file" / "page.html")

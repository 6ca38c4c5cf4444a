"""`finetune compare` and `finetune runs`: what they print, write and refuse."""

import subprocess
import sys

import pytest
from written import answers_of, write_run


@pytest.fixture
def runs(tmp_path):
    return [write_run(tmp_path / name, answers_of(wrong)) for name, wrong in (("a", [0, 1]), ("b", [1]), ("c", []))]


def test_a_comparison_prints_its_table_and_verdicts_and_writes_a_page_beside_the_first_run(finetune, runs, tmp_path):
    status, out, err = finetune("compare", *runs[:2])
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].endswith("top-1 on 40 common test clips")
    assert lines[1].startswith("A  a    0.950 (95 % interval 0.")
    assert lines[2].startswith("B  b    0.975 (95 % interval 0.")
    assert lines[4].startswith("B against A: no evidence of a difference; +2.5 points (95 % interval -")
    assert lines[4].endswith("only A correct on 0 clips, only B on 1")
    assert lines[-1] == f"page  {tmp_path / 'compare-a-b.html'}"
    assert "no evidence of a difference" in (tmp_path / "compare-a-b.html").read_text()


def test_the_page_of_several_runs_says_how_many_and_out_names_another(finetune, runs, tmp_path):
    assert finetune("compare", *runs)[0] == 0
    assert (tmp_path / "compare-a-b-and-1-more.html").is_file()
    assert finetune("compare", *runs, "--out", tmp_path / "new/page.html")[0] == 0
    assert (tmp_path / "new/page.html").is_file()


def test_what_weakens_a_comparison_is_printed_too(finetune, runs, tmp_path):
    write_run(tmp_path / "fewer", answers_of(clips=30), protocol={"views": 3})
    out = finetune("compare", runs[0], tmp_path / "fewer")[1]
    assert "note: 10 of 40 clips of A are not compared: not all runs were evaluated on them.\n" in out
    assert "note: The evaluation protocols differ: views per clip: 1 (A) or 3 (B)." in out


def test_one_run_or_none_is_a_mistake_that_says_what_to_do(finetune, runs):
    for given in ((), (runs[0],)):
        status, _, err = finetune("compare", *given)
        assert status == 2
        assert f"at least two runs, got {len(given)}: finetune compare RUN RUN" in err


def test_a_run_without_predictions_is_named_with_the_command_that_makes_them(finetune, runs):
    status, _, err = finetune("compare", *runs, "--split", "val")
    assert status == 2
    for run in runs:
        assert f"{run}: has no evaluation/val/results.json; make it with `finetune evaluate {run} --split val`" in err


def test_runs_of_other_clips_cannot_be_compared(finetune, runs, tmp_path):
    write_run(tmp_path / "other", answers_of(), path_of=lambda number: f"/other/{number}.mp4")
    status, _, err = finetune("compare", runs[0], tmp_path / "other")
    assert status == 2
    assert "no clip is in all of these runs: A (a) has /data/0/clip000.mp4, B (other) has /other/0.mp4" in err


def test_runs_are_listed_and_their_page_written(finetune, runs, tmp_path):
    (tmp_path / "c/evaluation/results.json").write_text("{")
    status, out, _ = finetune("runs", tmp_path)
    assert status == 0
    rows = {line[18:].split()[0]: line for line in out.splitlines()[1:4]}
    assert "top-1 0.975  0.925 to 1.000  test      40  finished" in rows["b"]
    assert "damaged: evaluation/results.json: not JSON" in rows["c"]
    assert out.splitlines()[-1] == f"page  {tmp_path / 'index.html'}"
    assert "3 runs, newest first" in (tmp_path / "index.html").read_text()


def test_a_folder_without_runs_is_said(finetune, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = finetune("runs")
    assert (status, err) == (
        2,
        "finetune: runs: there is no such folder; name the folder of your runs: finetune runs FOLDER\n",
    )


@pytest.mark.slow
def test_comparing_and_listing_wait_for_no_torch(runs, tmp_path):
    code = (
        "import sys; from finetune.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
        "print({'torch', 'sklearn'} & set(sys.modules))"
    )
    for what in (["compare", *map(str, runs)], ["runs", str(tmp_path)]):
        done = subprocess.run([sys.executable, "-c", code, *what], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "set()"

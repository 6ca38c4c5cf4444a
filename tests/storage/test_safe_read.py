import os
import shutil

import pytest

from finetune.errors import RunError
from finetune.run.read import read_epochs, read_results_file
from finetune.storage.safe_read import check_no_external_links, read_array, read_json, read_text_file


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("{", dict, "not JSON"),
        ("[" * 100_000, list, "not JSON"),
        ("9" * 5000, int, "not JSON"),
        ('["a", 1]', list[str], r"unexpected content \(1: .*string"),
        ("null", dict[str, int], "top level: "),
    ],
)
def test_what_is_not_of_its_type_is_a_run_error_that_names_the_file(tmp_path, text, kind, reason):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(RunError, match=f"file.json: .*{reason}|file.json: {reason}"):
        read_json(path, kind)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "results.json")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(RunError, match="is not a text file"):
        read_text_file(tmp_path / "results.json")
    with pytest.raises(RunError, match="does not exist|is not a text file"):
        read_results_file(tmp_path / "results.json")
    with pytest.raises(RunError, match="is not a text file"):
        read_epochs(tmp_path)


def test_an_array_that_would_be_executed_or_is_none_is_refused(tmp_path):
    for content in (b"", b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((((", b"PK\x03\x04", b"\x80\x04]q\x00."):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(RunError, match="a.npy: cannot be read as an array"):
            read_array(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["evaluation", "checkpoints/best/meta.json", ".lock", "results.json.partial"])
def test_a_link_that_leads_out_of_a_run_is_refused_before_anything_is_written(trained_run, tmp_path, finetune, name):
    run, mine = shutil.copytree(trained_run, tmp_path / "run"), tmp_path / "mine"
    shutil.rmtree(run / "evaluation", ignore_errors=True)
    (mine if name == "evaluation" else tmp_path).mkdir(exist_ok=True)
    if name != "evaluation":
        mine.write_text("my own")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(mine)
    for command in (["evaluate", run], ["train", "--resume", run]):
        status, _, err = finetune(*command)
        assert (status, "is a link that leads out of the run folder" in err) == (2, True), err
    assert not list(mine.iterdir()) if name == "evaluation" else mine.read_text() == "my own"


def test_links_within_a_run_and_those_of_trackers_are_left_alone(tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "log").symlink_to("/tmp")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "best").symlink_to("checkpoints")
    check_no_external_links(tmp_path)

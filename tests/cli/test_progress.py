"""Progress of commands on a terminal and in a pipe, and what Ctrl-C does."""

import gc
import signal
import sys
import types

import pytest
import rich.progress  # noqa: F401 before a test replaces `time.monotonic`, which it imports by name

from finetune.cli import progress
from finetune.cli.heavy_imports import import_quickly


def test_a_pipe_has_a_line_now_and_then_with_the_time_left(capsys, monkeypatch):
    now = iter([0.0, 4.0, 12.0, 13.0, 30.0, 31.0, 32.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.progress_bar("predicting") as show:
        for done in (0, 100, 300, 400, 1000):
            show(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "predicting: 300 of 1,000, about 28 s left",
        "predicting: 1,000 of 1,000",
    ]


def test_the_next_thing_starts_anew_and_a_total_need_not_be_known(capsys, monkeypatch):
    now = iter([0.0, 11.0, 12.0, 23.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.progress_bars() as show:
        for what in ("fetching", "unpacking"):
            show(what, 0, None)
            show(what, 5000, None)
    assert capsys.readouterr().err.splitlines() == ["fetching: 5,000", "unpacking: 5,000"]


def test_an_interrupted_command_says_so_and_has_status_130(finetune, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.cli.results.import_quickly", interrupt)
    monkeypatch.setattr("finetune.run.read.open_run", lambda run, parts=None: None)
    status, _, err = finetune("evaluate", ".")
    assert (status, err) == (130, "finetune: interrupted\n")


@pytest.mark.slow
def test_evaluation_and_heat_maps_of_a_pipe_tell_how_far_they_are(finetune, trained_run, tmp_path):
    status, _, err = finetune("evaluate", trained_run, "--out", tmp_path / "evaluation", "--explain")
    assert status == 0
    assert err.splitlines() == ["evaluating: 4 of 4", "heat maps: 4 of 4"]


def test_ctrl_c_during_imports_is_left_to_the_system_and_then_python_s_again():
    seen = []
    finder = types.SimpleNamespace(find_spec=lambda *args: seen.append(signal.getsignal(signal.SIGINT)))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.meta_path.insert(0, finder)
    try:
        with pytest.raises(ModuleNotFoundError):
            import_quickly("a_slow_library")
        assert (seen, signal.getsignal(signal.SIGINT)) == ([signal.SIG_DFL], signal.default_int_handler)
        assert gc.isenabled()
    finally:
        sys.meta_path.remove(finder)
        signal.signal(signal.SIGINT, before)


def test_the_time_left_of_one_recording_does_not_count_those_before(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    show = progress.recording_progress(progress._ProgressLines())
    for _ in range(2):
        for seconds in (0, 10, 50, 100):
            now[0] = now[0] + 10
            show(seconds, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6 and lines[:3] == lines[3:]

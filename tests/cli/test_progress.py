from finetune.cli import progress


def test_a_pipe_has_a_line_now_and_then_with_the_time_left(capsys, monkeypatch):
    now = iter([0.0, 4.0, 12.0, 13.0, 30.0, 31.0, 32.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with progress.progress_bar("predicting") as show:
        for done in (0, 100, 300, 400, 1000):
            show(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "predicting: 300 of 1,000, about 0 min 28 s left",
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

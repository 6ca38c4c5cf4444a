"""Labelled events and scores of people: read, and refused with what is wrong."""

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.summaries.references import read_events, read_people_scores, require_known


def test_scores_are_read_by_video_and_person(tmp_path):
    file = tmp_path / "ydata-tvsum50-anno.tsv"
    file.write_text("AwmHb44_ouw\tVT\t1,2,5\nAwmHb44_ouw\tVT\t3,3,4\n\nxx\tBK\t1.5\n")
    scores = read_people_scores(file)
    assert list(scores) == ["AwmHb44_ouw", "xx"]
    assert scores["AwmHb44_ouw"].tolist() == [[1, 2, 5], [3, 3, 4]]
    assert scores["xx"].tolist() == [[1.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no scores"),
        ("category\tvideo_id\ttitle\turl\tlength\n", r":1: 5 columns instead of 3: video id, category and scores"),
        ("a\tVT\t1,x\n", ":1: the scores are not numbers separated by commas: '1,x'"),
        ("a\tVT\t\n", ":1: the scores are not numbers"),
        ("a\tVT\t1,inf\n", ":1: a score is not a finite number"),
        ("a\tVT\t1,2\na\tVT\t1,2,3\n", ":2: 3 scores, but the first person has 2 for 'a'"),
        ("\tVT\t1,2\n", ":1: the video id is empty"),
        ("a\n" * 9, "and 4 more lines"),
    ],
)
def test_wrong_files_of_scores_are_refused(tmp_path, text, message):
    file = tmp_path / "scores.tsv"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        read_people_scores(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_people_scores(tmp_path / "nowhere.tsv")


def test_events_are_read_by_recording_and_others_are_named(tmp_path):
    file = tmp_path / "events.csv"
    (tmp_path / "a.mp4").touch()
    file.write_text("path,start,end,label\na.mp4,1,2,kick\na.mp4,3,4.5,push\n")
    events = read_events(file)
    assert events == {(tmp_path / "a.mp4").resolve(): [(1, 2), (3, 4.5)]}
    require_known([tmp_path / "a.mp4"], events, file, by_name=False)
    with pytest.raises(DataError, match="has none of the videos that were given; it has .*a.mp4"):
        require_known([tmp_path / "b.mp4"], events, file, by_name=False)
    with pytest.raises(DataError, match="without its ending is the video id"):
        require_known([tmp_path / "b.mp4"], {"a": np.zeros((1, 2))}, file, by_name=True)
    file.write_text("path,label\na.mp4,kick\n")
    with pytest.raises(DataError, match="no row has a start and an end"):
        read_events(file)

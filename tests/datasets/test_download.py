"""Downloading a file from servers that resume, do not resume, disconnect, state a wrong size or refuse."""

import shutil
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune.datasets.download import download
from finetune.errors import FinetuneError

BODY = bytes(range(256)) * 40


@pytest.fixture
def served(server, no_pauses):
    server.files["clips.rar"] = BODY
    return server


def fetch(served, folder, **kwargs):
    return download(f"{served.url}/clips.rar", folder / "clips.rar", **kwargs)


def test_a_file_arrives_whole_and_leaves_no_part_behind(served, tmp_path):
    assert fetch(served, tmp_path / "new").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["clips.rar"]


def test_a_file_that_is_there_is_not_fetched_again(served, tmp_path):
    (tmp_path / "clips.rar").write_bytes(b"by hand")
    assert fetch(served, tmp_path).read_bytes() == b"by hand"
    assert served.requests == []


def test_an_earlier_part_is_continued_where_it_ended(served, tmp_path):
    (tmp_path / "clips.rar.part").write_bytes(BODY[:1000])
    assert fetch(served, tmp_path).read_bytes() == BODY
    assert served.requests == [("/clips.rar", "bytes=1000-")]


def test_a_whole_part_that_was_never_renamed_is_renamed(served, tmp_path):
    (tmp_path / "clips.rar.part").write_bytes(BODY)
    assert fetch(served, tmp_path).read_bytes() == BODY
    assert len(served.requests) == 1


def test_a_part_longer_than_the_file_is_thrown_away(served, tmp_path):
    (tmp_path / "clips.rar.part").write_bytes(BODY + b"of another file")
    assert fetch(served, tmp_path).read_bytes() == BODY
    assert [asked for _, asked in served.requests] == [f"bytes={len(BODY) + 15}-", None]


def test_a_server_that_sends_no_parts_sends_all_from_the_start(served, tmp_path):
    served.ranges = False
    (tmp_path / "clips.rar.part").write_bytes(b"x" * 1000)
    assert fetch(served, tmp_path).read_bytes() == BODY


def test_a_connection_that_breaks_is_taken_up_again(served, tmp_path):
    served.cuts = [1000, 0, 0, 2000, 0]
    assert fetch(served, tmp_path).read_bytes() == BODY
    asked = [asked for _, asked in served.requests]
    assert asked == [None, *["bytes=1000-"] * 3, *["bytes=3000-"] * 2]


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 4000), max_size=8), st.integers(0, len(BODY)))
def test_wherever_the_connection_breaks_the_bytes_are_the_same(served, tmp_path, cuts, have):
    served.cuts = list(cuts)
    (tmp_path / "clips.rar").unlink(missing_ok=True)
    (tmp_path / "clips.rar.part").write_bytes(BODY[:have])
    assert fetch(served, tmp_path).read_bytes() == BODY


def test_a_server_without_parts_that_always_breaks_is_given_up(served, tmp_path):
    served.ranges = False
    served.cuts = [1000] * 50
    with pytest.raises(FinetuneError, match=r"the connection ended after 1,000 of 10,240 bytes"):
        fetch(served, tmp_path)
    assert len(served.requests) == 4


def test_a_length_that_lies_is_told_with_what_came_and_the_part_is_kept(served, tmp_path):
    served.extra_length = 7
    served.ranges = False
    with pytest.raises(FinetuneError, match=r"ended after 10,240 of 10,247 bytes; run the same command again"):
        fetch(served, tmp_path)
    assert not (tmp_path / "clips.rar").exists()
    assert (tmp_path / "clips.rar.part").read_bytes() == BODY


def test_a_refusal_names_the_address_the_place_for_the_file_and_the_option(served, tmp_path):
    del served.files["clips.rar"]
    with pytest.raises(FinetuneError) as error:
        fetch(served, tmp_path, option="--splits-archive")
    message = str(error.value)
    assert message.startswith(f"{served.url}/clips.rar: the server answered 404 Not Found; run the same command")
    assert f"save it as {tmp_path / 'clips.rar'} or pass it with --splits-archive" in message
    assert len(served.requests) == 1


def test_a_server_that_is_busy_is_asked_again(served, tmp_path):
    served.statuses = [503, 429]
    assert fetch(served, tmp_path).read_bytes() == BODY
    assert len(served.requests) == 3


def test_an_address_where_nobody_answers_is_a_message(no_pauses, tmp_path):
    with pytest.raises(FinetuneError, match=r"^http://127\.0\.0\.1:1/a\.rar: cannot be reached: .*--archive$"):
        download("http://127.0.0.1:1/a.rar", tmp_path / "a.rar")


def test_a_web_page_in_place_of_the_file_is_refused(served, tmp_path):
    served.content_type = "text/html; charset=utf-8"
    with pytest.raises(FinetuneError, match=r"the server sent a web page, not the file"):
        fetch(served, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a.rar", "a.rar"])
def test_other_addresses_than_of_the_web_are_refused(tmp_path, url):
    with pytest.raises(FinetuneError, match=r"not an http or https address"):
        download(url, tmp_path / "a.rar")


def test_a_disk_without_room_is_told_before_anything_is_written(served, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(FinetuneError, match=r"10,240 bytes are needed and 10,000 are free"):
        fetch(served, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_not_taken_for_a_broken_connection(served, tmp_path):
    (tmp_path / "clips.rar.part").symlink_to("/dev/full")
    with pytest.raises(FinetuneError, match=r"clips\.rar\.part: cannot be written: No space left on device"):
        fetch(served, tmp_path)
    assert len(served.requests) == 1


def test_progress_is_told_bytes_from_where_the_part_ended(served, tmp_path):
    (tmp_path / "clips.rar.part").write_bytes(BODY[:1000])
    told = []
    fetch(served, tmp_path, progress=lambda *args: told.append(args))
    assert told[-1] == ("download clips.rar", len(BODY), len(BODY))
    assert all(1000 < done <= total == len(BODY) for _, done, total in told)

"""Browsing the clips of a run: filters and orders, frames, videos in ranges, and corrections in a journal."""

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.run.predictions_csv import read_prediction_rows


def clips_of(client, **filters):
    answer = client.get("/api/clips", params={"limit": 500, **filters}).json()
    assert answer["total"] == len(answer["clips"])
    return answer["clips"]


def test_clips_have_the_labels_and_answers_of_the_run(client, evaluated_run):
    rows = {row.path: row for row in read_prediction_rows(evaluated_run / "evaluation")}
    clips = clips_of(client)
    assert len(clips) == 16 and [clip["split"] for clip in clips].count("test") == len(rows) == 4
    for clip in clips_of(client, split="test"):
        (row,) = [row for path, row in rows.items() if path.endswith(f"/{clip['path']}")]
        assert (clip["label"], clip["predicted"]) == (row.label, row.predicted)
        assert clip["probability"] == pytest.approx(row.probability)
        assert clip["wrong"] == (not row.is_correct)
    assert {clip["predicted"] for clip in clips_of(client, split="train")} == {None}


def test_filters_and_orders(client):
    every = clips_of(client)
    dark = clips_of(client, label="dark ones")
    assert {clip["label"] for clip in dark} == {"dark ones"} and len(dark) == 8
    assert clips_of(client, text="BRIGHT", split="val") == [
        clip for clip in every if "bright" in clip["path"] and clip["split"] == "val"
    ]
    least_sure = clips_of(client, order="confidence")
    sure = [clip["probability"] for clip in least_sure if clip["probability"] is not None]
    assert sure == sorted(sure) and [clip["probability"] for clip in least_sure[:4]] == sure
    page = client.get("/api/clips", params={"offset": 3, "limit": 2}).json()
    assert page["total"] == 16 and page["clips"] == every[3:5]
    assert clips_of(client, wrong=True) == [clip for clip in every if clip["wrong"]]
    assert clips_of(client, predicted="dark ones") == [clip for clip in every if clip["predicted"] == "dark ones"]


def test_the_confusion_counts_all_answered_clips(client):
    confusion = client.get("/api/confusion", params={"split": "test"}).json()
    assert confusion["classes"] == ["dark ones", "it's bright"]
    assert sum(count for _, _, count in confusion["cells"]) == 4


def test_a_clip_shows_the_frames_that_the_model_sees(client):
    for split in ("test", "train"):  # with an answer, and without one, which is then computed
        clip = client.get(f"/api/clips/{clips_of(client, split=split)[0]['id']}").json()
        assert len(clip["frames"]) == 4 and len(clip["probabilities"]) == 2 and clip["error"] is None
        assert clip["play"] == {"start": 0.0, "end": None}
        urls = [clip["frames"][1]["url"], f"/api/clips/{clip['id']}/heatmaps/2.jpg"]
        assert all(client.get(url).content.startswith(b"\xff\xd8") for url in urls)
        assert client.get(f"/api/clips/{clip['id']}/frames/99.jpg").status_code == 404


def video_of(client, **filters):
    return f"/api/clips/{clips_of(client, **filters)[0]['id']}/video"


def test_videos_are_served_in_ranges(client):
    url = video_of(client)
    whole = client.get(url)
    size, content = len(whole.content), whole.content
    assert whole.headers["accept-ranges"] == "bytes" and whole.headers["content-type"] == "video/mp4"
    for wanted, part in (("0-99", slice(0, 100)), ("100-", slice(100, None)), ("-50", slice(-50, None))):
        answer = client.get(url, headers={"range": f"bytes={wanted}"})
        assert answer.status_code == 206 and answer.content == content[part]
        assert answer.headers["content-range"].endswith(f"/{size}")
    outside = client.get(url, headers={"range": f"bytes={size}-"})
    assert outside.status_code == 416 and outside.headers["content-range"] == f"bytes */{size}"
    stale = {"range": "bytes=0-9", "if-range": '"another"'}
    assert client.get(url, headers=stale).content == content
    fresh = {"range": "bytes=0-9", "if-range": whole.headers["etag"]}
    assert client.get(url, headers=fresh).content == content[:10]
    assert client.head(url).status_code in (200, 405)


ODD = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(lambda text: f"bytes={text}"),
    st.builds("bytes={}-{}".format, st.integers(-5, 10**20), st.integers(-5, 10**20)),
    st.lists(st.sampled_from(["0-", "-1", "5-3", "a", "-", "", "1-1", "99999999-"]), max_size=20).map(
        lambda parts: f"bytes={','.join(parts)}"
    ),
    st.sampled_from(["bytes", "bytes=", "lines=1-2", "=", "bytes 0-1"]),
)


@settings(max_examples=60, deadline=None)
@given(ODD)
def test_any_range_is_answered_within_the_file(server, wanted):
    url = video_of(server.client)
    size = len(server.client.get(url).content)
    try:
        answer = server.client.get(url, headers={"range": wanted.encode()})
    except httpx.LocalProtocolError:  # not a header at all
        return
    assert answer.status_code in (200, 206, 416)
    assert len(answer.content) <= (size if answer.status_code == 200 else 10 * (size + 500))


TRAVERSAL = ["..", "%2e%2e", "..%2f", "%2e%2e%2f", "/", "%2f", "\\", "%5c", "etc", "passwd", "\0", "%00", "~", "file:"]


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["/api/clips/", "/api/jobs/", "/static/", "/"]),
    st.lists(st.one_of(st.sampled_from(TRAVERSAL), st.text(st.characters(codec="ascii"), max_size=6)), max_size=12),
    st.sampled_from(["", "/video", "/frames/0.jpg", "/heatmaps/../../0.jpg", "/../frames/-1.jpg"]),
)
def test_no_address_leads_out_of_the_data(server, prefix, pieces, suffix):
    path = prefix + "".join(pieces) + suffix
    try:
        answer = server.client.get(httpx.URL(server.url, raw_path=path.encode()), follow_redirects=False)
    except (httpx.LocalProtocolError, httpx.InvalidURL):
        return
    assert answer.status_code in (200, 307, 400, 401, 403, 404, 405, 421, 422)
    assert b"root:" not in answer.content
    if answer.status_code >= 400 and answer.headers.get("content-type") == "application/json":
        assert "Traceback" not in answer.text and "/tmp" not in answer.json()["detail"]

"""Predictions by the server: the numbers of `finetune predict`, jobs in a queue, and the pictures of a job."""

import csv
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving import post_video

from finetune.run.read import open_run
from finetune.serve.compute import ServedModel
from finetune.serve.request import VideoRequest


def finished(client, job_id, *, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = client.get(f"/api/jobs/{job_id}").json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


@pytest.mark.parametrize("calibrated", [False, True])
def test_answers_are_those_of_the_command(client, evaluated_run, clip_folder, finetune, calibrated):
    clips = sorted((clip_folder / "test").rglob("*.mp4"))
    options = ["--calibrated"] if calibrated else []
    _, out, _ = finetune("predict", evaluated_run, *clips, "--json", *options)
    by_command = {
        item["path"]: [[top["class"], top["probability"]] for top in item["top_k"]] for item in json.loads(out)
    }
    for clip in clips:
        task = post_video(client, clip, calibrated=calibrated).json()["tasks"]["label"]
        assert task["top_k"] == by_command[str(clip)]
        assert task["predicted"] == task["top_k"][0][0]


def test_events_are_those_of_the_command(trained_run, clip_folder, finetune, tmp_path):
    run, clip = tmp_path / "run", next((clip_folder / "test").rglob("0.mp4"))
    shutil.copytree(trained_run, run)
    settings = {"smoothing_seconds": 0, "high": 0.3, "low": 0.2, "shortest_seconds": 0, "max_gap_seconds": 0}
    (run / "event_settings.json").write_text(json.dumps({"settings": settings, "how": "by hand"}))
    assert finetune("timeline", run, clip, "--out", tmp_path)[0] == 0
    with (tmp_path / "events.csv").open() as file:
        by_command = [
            {"class": row["label"], **{key: float(row[key]) for key in ("start", "end", "score")}}
            for row in csv.DictReader(file)
        ]
    request = VideoRequest(clip, tmp_path, clip.name, predict=False, pictures=False, events=True)
    assert ServedModel(open_run(run)).answer(request)["events"] == by_command != []


def test_frames_are_those_that_the_model_takes(client, clip_folder):
    clip = next((clip_folder / "test").rglob("0.mp4"))
    frames = post_video(client, clip).json()["frames"]
    assert [frame["index"] for frame in frames] == [0, 2, 3, 5]  # the middles of four segments of six frames
    assert [frame["seconds"] for frame in frames] == pytest.approx([0, 0.08, 0.12, 0.2])


def test_several_videos_are_jobs_with_pictures(client, clip_folder):
    clips = sorted((clip_folder / "val").rglob("*.mp4"))
    files = [("videos", (clip.name, clip.read_bytes())) for clip in clips]
    jobs = client.post("/api/jobs", files=files, params={"heatmap": True}).json()["jobs"]
    assert [job["name"] for job in jobs] == [clip.name for clip in clips]
    for job in jobs:
        result = finished(client, job["id"])["result"]
        assert len(result["frames"]) == len(result["heatmaps"]) == 4
        for url in [result["frames"][0]["url"], result["heatmaps"][3]]:
            picture = client.get(url)
            assert picture.headers["content-type"] == "image/jpeg" and picture.content.startswith(b"\xff\xd8")
        assert client.get(f"/api/jobs/{job['id']}/video").headers["content-type"] == "video/mp4"
        client.delete(f"/api/jobs/{job['id']}")
        assert client.get(f"/api/jobs/{job['id']}").status_code == 404
        assert client.get(result["heatmaps"][3]).status_code == 404


def test_a_file_that_is_no_video_is_an_error_without_paths(client, tmp_path):
    (tmp_path / "notes.mp4").write_text("no video")
    answer = post_video(client, tmp_path / "notes.mp4")
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("notes.mp4: is not a video")
    assert "/" not in answer.json()["detail"]


def test_a_playlist_opens_no_other_file(client, clip_folder, tmp_path):
    clip = next((clip_folder / "test").rglob("0.mp4"))
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {clip}\n")
    assert post_video(client, tmp_path / "list.mp4").status_code == 422


def test_fifty_callers_at_once_are_all_served(client, clip_folder):
    clip = next((clip_folder / "test").rglob("0.mp4"))
    post_video(client, clip)  # the worker has started
    with ThreadPoolExecutor(50) as callers:
        predictions = list(callers.map(lambda _: post_video(client, clip), range(50)))
        lists = list(callers.map(lambda _: client.get("/api/clips"), range(50)))
    assert {answer.status_code for answer in predictions + lists} == {200}
    assert len({answer.text for answer in predictions}) == 1
    assert client.get("/api/jobs").json()["jobs"] == []

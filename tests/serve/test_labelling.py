"""Correcting labels on a server: changes in the journal, conflicts, suspects, alike clips, and clips to label next."""

import json
import shutil
from pathlib import Path

import pytest
from serving import serving


def clip_at(client, **filters):
    return client.get("/api/clips", params={"limit": 1, **filters}).json()["clips"][0]


def change(client, clip, field, value, previous, **more):
    new = {"clip": clip["id"], "field": field, "value": value, "previous": previous, **more}
    return client.post("/api/changes", json=new)


def test_changes_are_in_the_journal_at_once_and_can_be_taken_back(client):
    clip = clip_at(client, split="test", label="dark ones")
    made = change(client, clip, "label", "it's bright", "dark ones").json()
    assert made["clip"]["label"] == "it's bright" and made["clip"]["changed"] == {"label": "dark ones"}
    manifest = client.get("/api/about").json()["manifest"]
    lines = Path(f"{manifest}.changes.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["value"] == "it's bright"
    marked = change(client, clip, "bad", True, False).json()
    assert [item["id"] for item in client.get("/api/clips", params={"bad": True}).json()["clips"]] == [clip["id"]]
    listed = client.get("/api/changes", params={"after": made["number"] - 1}).json()["changes"]
    assert [(item["clip"], item["field"], item["value"]) for item in listed] == [
        (clip["id"], "label", "it's bright"),
        (clip["id"], "bad", True),
    ]
    client.post("/api/changes/undo", json={"number": marked["number"]})
    undone = client.post("/api/changes/undo", json={}).json()
    assert undone["clip"] == clip


def test_a_change_of_what_somebody_else_changed_is_a_conflict(client):
    clip = clip_at(client, split="val", label="dark ones")
    change(client, clip, "label", "it's bright", "dark ones")
    answer = change(client, clip, "label", "dusk", "dark ones")
    assert answer.status_code == 409 and answer.json()["current"] == "it's bright"
    assert "/" not in answer.json()["detail"].partition(":")[0]
    assert change(client, clip, "label", "dark ones", "it's bright").status_code == 200


@pytest.mark.parametrize(
    ("field", "value", "previous", "status"),
    [
        ("no field", "a", "b", 422),
        ("split", "nowhere", "test", 422),
        ("bad", "yes", False, 422),
        ("label", "a\nb", "dark ones", 422),
        ("label", "x" * 2000, "dark ones", 422),
        ("label", 7, "dark ones", 422),
    ],
)
def test_changes_that_cannot_be_are_refused_in_words(client, field, value, previous, status):
    answer = change(client, clip_at(client, split="test", label="dark ones"), field, value, previous)
    assert answer.status_code == status and isinstance(answer.json()["detail"], str)


def test_unknown_clips_and_fields_are_refused(client):
    assert (
        client.post("/api/changes", json={"clip": "../x", "field": "label", "value": "a", "previous": ""}).status_code
        == 404
    )
    assert client.post("/api/changes", json={"path": "/etc/passwd"}).status_code == 422


def test_suspects_are_listed_with_what_is_likelier(client):
    listed = client.get("/api/suspects").json()
    assert listed["total"] == len(listed["suspects"])
    for suspect in listed["suspects"]:
        assert suspect["suggested"] != suspect["label"] and 0 <= suspect["score"] <= 1
    assert client.get("/api/clips", params={"order": "suspect"}).json()["total"] == 16


def test_alike_clips_and_clips_to_label_next(evaluated_run, clip_folder, tmp_path):
    new, outside = tmp_path / "new", tmp_path / "outside.mp4"
    new.mkdir()
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(next((clip_folder / "test").rglob("0.mp4")), new / name)
    shutil.copy(new / "a.mp4", outside)
    (new / "link.mp4").symlink_to(outside)
    with serving(evaluated_run, "--data", new) as served:
        clip = clip_at(served.client, split="test")
        alike = served.client.get(f"/api/clips/{clip['id']}/nearest", params={"count": 3}).json()["clips"]
        assert len(alike) == 3 and clip["id"] not in [other["id"] for other in alike]
        similarities = [other["similarity"] for other in alike]
        assert similarities == sorted(similarities, reverse=True)
        found = served.client.get("/api/next").json()["clips"]
        assert sorted(item["name"] for item in found) == ["a.mp4", "b.mp4"]
        one = served.client.get(f"/api/clips/{found[0]['id']}").json()
        assert one["label"] == "" and len(one["frames"]) == 4
        assert change(served.client, one, "label", "dark ones", "").json()["clip"]["label"] == "dark ones"
        assert [item["id"] for item in served.client.get("/api/next").json()["clips"]] == [found[1]["id"]]

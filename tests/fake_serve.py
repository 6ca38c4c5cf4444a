"""A stand-in for `finetune serve` whose answers a test chooses: many clips, odd names, slow jobs, conflicts, failures.

It keeps the JSON API of the server and its content security policy; nothing is decoded or predicted.
"""

import itertools
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

import finetune
from finetune.video.encode import encode_jpeg

PACKAGE = Path(finetune.__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FRAMES, SECONDS = 4, 2.0
CAN = ("heatmap", "events", "browse", "label", "suspects", "next", "nearest")


class FakeServe:
    """What the server knows; tests read and change it while it runs."""

    def __init__(self, video: Path, classes, *, clips=60, clip_name="clip{:05}.mp4", groups=4):
        self.video, self.classes = video, list(classes)
        self.groups = [f"person {number}" for number in range(groups)]
        self.clips = {str(number): self._clip(number, clip_name) for number in range(clips)}
        self.jobs, self.journal, self.job_numbers = {}, [], itertools.count(1)
        self.step = 1.0  # how far a job comes with each time it is asked for
        self.failing = {}  # path prefix → (status, detail)
        self.token = None
        self.can = dict.fromkeys(CAN, True)
        self.answer_of_job = {}  # file name → (state, error)
        self.requests = []

    def _clip(self, number, clip_name):
        wrong = number % 7 == 3
        label = self.classes[number % len(self.classes)]
        predicted = self.classes[(number + wrong) % len(self.classes)]
        name = clip_name.format(number)
        return {
            "id": str(number),
            "name": name,
            "path": f"data/{name}",
            "start": None,
            "end": None,
            "split": ("train", "val", "test")[number % 3],
            "group": self.groups[number % len(self.groups)],
            "label": label,
            "predicted": predicted,
            "probability": 0.4 + 0.05 * (number % 11),
            "wrong": wrong,
            "bad": False,
            "changed": {},
        }

    def result(self, name):
        frames = [
            {"index": 10 * place, "seconds": 0.4 * place, "url": self.frame_url(place)} for place in range(FRAMES)
        ]
        top = [[text, 0.9 / 2**place] for place, text in enumerate(self.classes)]
        task = {"kind": "classify", "predicted": self.classes[0], "top_k": top, "named": None, "numbers": {}}
        several = task | {"kind": "multilabel", "named": self.classes[:2]}
        box = {"kind": "box", "predicted": "", "top_k": [], "named": None, "frame": 16}
        box["numbers"] = {"x": 12.5, "y": 30, "w": 48.25, "h": 60}
        events = [
            {"class": self.classes[place % 3], "start": 0.4 * place, "end": 0.4 * place + 0.7, "score": 0.8}
            for place in range(3)
        ]
        return {
            "name": name,
            "tasks": {"label": task, "tags": several, "place": box},
            "rejected": "unlike" in name,
            "frames": frames,
            "heatmaps": [frame["url"] + "?heat" for frame in frames],
            "events": events,
            "duration_seconds": SECONDS,
        }

    @staticmethod
    def frame_url(place):
        return f"/api/clips/0/frames/{place}.jpg"

    def advance(self, job):
        """Jobs run one after the other; each question about a job moves the first one on."""
        if job["state"] == "queued" and not any(other["state"] == "running" for other in self.jobs.values()):
            job["state"] = "running"
        elif job["state"] == "running":
            job["progress"] = min(1.0, job["progress"] + self.step)
            if job["progress"] == 1:
                job["state"], job["error"] = self.answer_of_job.get(job["name"], ("done", None))
                job["result"] = self.result(job["name"]) if job["state"] == "done" else None
        waiting = [other["id"] for other in self.jobs.values() if other["state"] == "queued"]
        running = sum(other["state"] == "running" for other in self.jobs.values())
        job["position"] = waiting.index(job["id"]) + running if job["id"] in waiting else 0

    def change(self, asked):
        clip, field = self.clips[asked["clip"]], asked["field"]
        if clip[field] != asked["previous"]:
            return JSONResponse({"detail": "Another value was set.", "current": clip[field]}, 409)
        clip["changed"].setdefault(field, clip[field])
        clip[field] = asked["value"]
        self.journal.append(asked | {"number": len(self.journal) + 1, "time": time.time(), "name": clip["name"]})
        clip["wrong"] = clip["label"] != clip["predicted"]
        return {"number": len(self.journal), "clip": clip}

    def undo(self, number):
        entry = self.journal[number - 1]
        entry["undone"] = True
        clip = self.clips[entry["clip"]]
        clip[entry["field"]] = entry["previous"]
        clip["changed"].pop(entry["field"], None)
        return {"number": number, "clip": clip}

    def chosen(self, asked):
        clips = list(self.clips.values())
        for key in ("split", "label", "predicted", "group"):
            clips = [clip for clip in clips if not asked.get(key) or clip[key] == asked[key]]
        tests = {
            "wrong": lambda clip: clip["wrong"],
            "bad": lambda clip: clip["bad"],
            "unsure": lambda clip: clip["probability"] < 0.5,
        }
        for key, test in tests.items():
            clips = [clip for clip in clips if not asked.get(key) or test(clip)]
        clips = [clip for clip in clips if asked.get("text", "") in clip["name"]]
        if asked.get("order", "row").endswith("confidence"):
            clips.sort(key=lambda clip: clip["probability"], reverse=asked["order"].startswith("-"))
        return clips

    def app(self):
        app = FastAPI()

        @app.middleware("http")
        async def guard(request: Request, call_next):
            self.requests.append(f"{request.method} {request.url.path}")
            for prefix, (status, detail) in self.failing.items():
                if request.url.path.startswith(prefix):
                    return JSONResponse({"detail": detail}, status)
            if self.token and request.url.path.startswith("/api") and request.cookies.get("token") != self.token:
                return JSONResponse({"detail": "A token is needed."}, 401)
            response = await call_next(request)
            response.headers["Content-Security-Policy"] = POLICY
            if self.token and request.query_params.get("token") == self.token:
                response.set_cookie("token", self.token)
            return response

        self._add_jobs(app)
        self._add_clips(app)
        self._add_changes(app)

        @app.get("/api/about")
        def about():
            task = {"kind": "classify", "names": self.classes}
            return {
                "name": "<b>run",
                "exported": False,
                "tasks": {"label": task},
                "primary": "label",
                "classes": self.classes,
                "splits": ["train", "val", "test"],
                "groups": self.groups,
                "can": self.can,
                "manifest": "data/my clips.csv",
                "limits": {"max_bytes": 1_000_000, "max_files": 5},
                "licence": "apache-2.0",
                "figures": [
                    {"task": "label", "metric": "top-1", "value": 0.75, "interval": [0.5, 0.9], "split": "test"}
                ],
                "clip": {"num_frames": 8, "sampling": "segments", "size": 96, "views": 1},
            }

        @app.get("/static/report.css")
        def report_css():
            return FileResponse(PACKAGE / "report/templates/report.css", media_type="text/css")

        @app.get("/")
        def page():
            return FileResponse(PACKAGE / "serve/static/index.html")

        app.mount("/static", StaticFiles(directory=PACKAGE / "serve/static"))
        return app

    def _add_jobs(self, app):
        @app.post("/api/jobs")
        async def add(request: Request):
            async with request.form() as form:
                jobs = [self._job(file.filename) for file in form.getlist("videos")]
            return {"jobs": jobs}

        @app.get("/api/jobs")
        def jobs():
            for job in self.jobs.values():
                self.advance(job)
            return {"jobs": list(self.jobs.values())}

        @app.delete("/api/jobs/{job}")
        def cancel(job: str):
            return self.jobs.pop(job) | {"state": "cancelled"}

        @app.get("/api/{kind}/{name}/video")
        def video(kind: str, name: str):
            return FileResponse(self.video)

    def _job(self, name):
        job = {"id": str(next(self.job_numbers)), "name": name, "state": "queued", "position": 0}
        self.jobs[job["id"]] = job | {"progress": 0.0, "error": None, "result": None}
        return self.jobs[job["id"]]

    def _add_clips(self, app):
        @app.get("/api/clips")
        def clips(request: Request, offset: int = 0, limit: int = 50):
            chosen = self.chosen(request.query_params)
            return {"total": len(chosen), "clips": chosen[offset : offset + limit]}

        @app.get("/api/confusion")
        def confusion():
            pairs = [(clip["label"], clip["predicted"]) for clip in self.clips.values()]
            return {"classes": self.classes, "cells": [[*pair, pairs.count(pair)] for pair in sorted(set(pairs))]}

        @app.get("/api/clips/{clip}")
        def clip(clip: str):
            if clip not in self.clips:
                return JSONResponse({"detail": "There is no such clip."}, 404)
            frames = self.result("")["frames"]
            first, share = self.clips[clip]["predicted"], self.clips[clip]["probability"]
            others = [name for name in self.classes if name != first]
            probabilities = [[first, share], *([name, (1 - share) / len(others)] for name in others)]
            return self.clips[clip] | {"probabilities": probabilities, "frames": frames}

        @app.get("/api/clips/{clip}/{kind}/{place}.jpg")
        def picture(clip: str, kind: str, place: int, request: Request):
            level = 60 * place + 30
            frame_HWC = np.full(
                (90, 120, 3), (level, level, 90 if request.url.query or kind == "heatmaps" else level), np.uint8
            )
            return Response(encode_jpeg(frame_HWC.transpose(2, 0, 1)), media_type="image/jpeg")

        @app.get("/api/clips/{clip}/nearest")
        def nearest(clip: str, count: int = 8):
            others = [other for other in self.clips.values() if other["id"] != clip]
            return {"clips": [other | {"similarity": 0.9} for other in others[:count]]}

        @app.get("/api/suspects")
        def suspects(offset: int = 0, limit: int = 50):
            found = [
                clip | {"suggested": clip["predicted"], "score": 0.9} for clip in self.clips.values() if clip["wrong"]
            ]
            return {"total": len(found), "suspects": found[offset : offset + limit]}

        @app.get("/api/next")
        def next_to_label(count: int = 20):
            found = [clip for clip in self.clips.values() if not clip["label"]][:count]
            keys = ("id", "name", "probability")
            return {
                "clips": [
                    {key: clip[key] for key in keys} | {"guess": clip["predicted"], "reason": "the model is unsure"}
                    for clip in found
                ]
            }

    def _add_changes(self, app):
        @app.post("/api/changes")
        async def change(request: Request):
            return self.change(await request.json())

        @app.post("/api/changes/undo")
        async def undo(request: Request):
            return self.undo((await request.json())["number"])

        @app.get("/api/changes")
        def changes():
            return {"changes": [{"undone": False} | change for change in self.journal]}


@contextmanager
def running(app):
    """The address of `app`, which a thread serves on a free port of loopback until the end."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()

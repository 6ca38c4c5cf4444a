"""The code of an exported README, run without torch and without this package, predicts what the run predicts."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from grey import make_clip

import finetune as ft
from finetune.export.export_run import export_run
from finetune.export.settings import ExportSettings
from finetune.run.read import open_run

# Modules that are None cannot be imported, and a socket cannot be made.
ALONE = """
import socket, sys
for name in ("torch", "torchvision", "finetune", "cv2"):
    sys.modules[name] = None
def no_socket(*args, **options):
    raise OSError("no network")
socket.socket.connect = socket.create_connection = no_socket
"""


@pytest.fixture(scope="module", params=["onnx", "openvino"])
def exported(request, trained_run, tmp_path_factory):
    settings = ExportSettings(request.param, out=tmp_path_factory.mktemp("exported") / "folder", check="batches")
    return export_run(open_run(trained_run), settings, progress=lambda *_: None)[0]


def run_readme(folder, video, tmp_path):
    """What `predictions` returns in the README's code for a video, by task."""
    alone = shutil.copytree(folder, tmp_path / "copy")
    shutil.copyfile(video, alone / "video.mp4")
    (code,) = re.findall(r"```python\n(.*?)```", (alone / "README.md").read_text(), re.DOTALL)
    told = "import json as j\nprint('RESULT', j.dumps(predictions(info, outputs, clip)))"
    command = [sys.executable, "-c", "\n".join([ALONE, code, told])]
    done = subprocess.run(command, cwd=alone, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("RESULT")[2])


def expect_the_runs_probabilities(run, folder, video, tmp_path):
    (prediction,) = ft.predict(open_run(run, "train.precision=fp32"), video, calibrated=True)
    given = run_readme(folder, video, tmp_path)["label"]
    assert set(given) == {name for name, _ in prediction.top_k}
    for name, probability in prediction.top_k:
        assert given[name] == pytest.approx(probability, abs=1e-4)


@pytest.mark.slow
def test_without_torch_a_drawn_clip_gets_the_runs_probabilities(trained_run, exported, tmp_path):
    expect_the_runs_probabilities(trained_run, exported, make_clip(tmp_path / "new.mp4", 23, start=40), tmp_path)


@pytest.mark.slow
@pytest.mark.real
def test_without_torch_real_clips_get_the_runs_probabilities(trained_run, exported, real, tmp_path):
    for number, video in enumerate(sorted((real / "data/ut_interaction").rglob("*.avi"))[::50]):
        folder = tmp_path / str(number)
        folder.mkdir()
        expect_the_runs_probabilities(trained_run, exported, video, folder)

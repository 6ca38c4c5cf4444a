"""An installed wheel works outside the checkout: recipes, bundled weights and templates travel in it."""

import json
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from grey import make_clip

CHECKOUT = Path(__file__).parent.parent
CODE = """
import sys; sys.path.insert(0, sys.argv[1])
import finetune
assert finetune.__file__.startswith(sys.argv[1]), finetune.__file__
from finetune.cli.main import main
sys.argv = ["finetune", *sys.argv[2:]]
main()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, str(CHECKOUT)], check=True, timeout=300)
    site = folder / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", site, next(folder.glob("finetune_video-*.whl"))],
        check=True,
        timeout=300,
    )
    return site


def test_every_package_is_in_the_wheel():
    setup = ConfigParser()
    setup.read(CHECKOUT / "setup.cfg")
    folders = [path.parent.relative_to(CHECKOUT) for path in (CHECKOUT / "finetune").rglob("__init__.py")]
    packages = {".".join(folder.parts) for folder in folders} | {"finetune.recipes"}
    assert set(setup["options"]["packages"].split()) == packages


def test_no_text_tells_to_install_the_other_package_named_finetune():
    paths = [*CHECKOUT.glob("*.*"), *(path for name in ("docs", "finetune") for path in (CHECKOUT / name).rglob("*.*"))]
    texts = {path: path.read_text(encoding="utf-8") for path in paths if path.suffix in {".py", ".md", ".html", ".cfg"}}
    assert any("pip install" in text for text in texts.values())
    for path, text in texts.items():
        assert not re.search(r"pip install ['\"]?finetune(?!-video)\b", text), path


@pytest.mark.slow
def test_an_installed_wheel_trains_outside_the_checkout(installed, tmp_path):
    def finetune(*arguments):
        command = [sys.executable, "-c", CODE, str(installed), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=os.environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for split in ("train", "test"):
        for name, start in (("a", 16), ("b", 200)):
            make_clip(tmp_path / "clips" / split / name / "0.mp4", start=start, step=1)
    assert "quickstart" in finetune("recipes", "list")
    assert (installed / "finetune/py.typed").is_file()
    assert (installed / "finetune/serve/static/app.js").is_file()
    overrides = ["data.manifest=null", "data.folder=clips", "clip.num_frames=2", "clip.size=32", "data.workers=0"]
    printed = finetune("train", "quickstart", *overrides, *(f"phases.{index}.epochs=1" for index in range(2)))
    run = tmp_path / printed.splitlines()[-1]
    assert (run / "evaluation" / "report.html").is_file()
    assert json.loads((run / "environment.json").read_text())["versions"]["finetune"]

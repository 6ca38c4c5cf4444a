"""Figures as files: complete, in light colours, and reproducible."""

import re
from xml.etree import ElementTree

import pytest
from report.run.test_page import write_run

from finetune.report.run.calibration_plots import reliability_diagram
from finetune.report.run.confusion_plot import confusion_matrix
from finetune.report.run.export_figures import write_figures
from finetune.report.run.page import write_report

BINS = [{"low": 0.8, "high": 0.9, "count": 4, "sure": 0.85, "right": 0.5}]


def drawings():
    matrix = confusion_matrix(["a", "挥手"], [[3, 1], [0, 4]], name="confusion-0")
    return [matrix, reliability_diagram({"bins": BINS}, {"bins": BINS}, name="reliability-0")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "figures"
    folder.mkdir()
    (folder / "stale.svg").write_text("old")
    write_figures(folder, drawings())
    return folder


def test_each_figure_is_there_as_svg_and_png_and_nothing_older(folder):
    names = {"confusion-0.svg", "confusion-0.png", "reliability-0.svg", "reliability-0.png"}
    assert {path.name for path in folder.iterdir()} == names
    for path in folder.glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_no_stand_in_colour_is_left(folder):
    for path in folder.glob("*.svg"):
        text = path.read_text()
        assert not re.search(r"#01010\d|var\(--", text), path.name
        assert re.search("#0b5494|#15202b", text), path.name


def test_they_are_the_same_each_time(folder, tmp_path):
    write_figures(tmp_path / "figures", drawings())
    for path in folder.iterdir():
        assert (tmp_path / "figures" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.slow
def test_a_report_writes_the_figures_of_its_page_unless_it_must_not(tmp_path):
    write_run(tmp_path)
    write_report(tmp_path, figures_too=False)
    assert not (tmp_path / "evaluation/figures").exists()
    write_report(tmp_path)
    names = {path.stem for path in (tmp_path / "evaluation/figures").glob("*.png")}
    assert names == {"confusion-0", "loss", "accuracy", "learning-rates"}

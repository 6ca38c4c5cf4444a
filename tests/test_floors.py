"""Imports run downwards through the folders, and heavy libraries are each imported in one place."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "finetune"
FLOORS = {
    **dict.fromkeys(
        ("errors", "files", "recipe", "recipe_files", "schedules", "manifest", "report", "threads", "version"), 0
    ),
    **dict.fromkeys(("recipe_values", "numbered_images", "folder_walk", "splits", "manifest_checks"), 0),
    **dict.fromkeys(("tables", "naming"), 0),
    **dict.fromkeys(("scores", "answers", "objects", "manifest_files", "labels", "sections", "tasks"), 0),
    **dict.fromkeys(("reading", "text"), 0),
    **dict.fromkeys(("video", "model"), 1),
    **dict.fromkeys(
        (
            *("audit", "checkpoint", "infer", "evaluation", "datasets", "features", "pictures", "explain"),
            *("probabilities", "scored", "run_data"),
        ),
        2,
    ),
    **dict.fromkeys(("train", "prediction", "drawing"), 3),
    "study": 4,
    "cli": 5,
    **dict.fromkeys(("__init__", "__main__"), 6),
}
HOMES = {
    "timm": {"model/timm_networks.py", "train/optimizer.py"},
    "torchvision.models": {"model/torchvision_networks.py"},
    "av": {
        *(f"video/{name}.py" for name in ("container", "scan", "sparse", "decode", "encode", "orientation")),
        "video/image_sequence.py",
    },
    "torchcodec": {"video/other_decoders.py"},
    "accelerate": {"infer.py", "train/loop.py", "train/together.py", "train/trackers.py", "train/settle.py"},
    "cv2": {
        *("video/other_decoders.py", "video/drawn.py", "datasets/shapes.py", "datasets/quickstart.py"),
        *("video/pack.py", "video/packed.py"),  # JPEG: the fastest codec of those that are there anyway
        "video/still_edges.py",
    },
}
FILES = sorted(PACKAGE.rglob("*.py"))


def part(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    here = part(path)
    for name in imports(path):
        if not name.startswith("finetune.") or here in {"__init__", "__main__"}:
            continue
        there = name.split(".")[1]
        if there not in FLOORS:
            continue  # a name of the package itself
        below = FLOORS[there] < FLOORS[here] or there == here
        same_file_floor = FLOORS[there] == FLOORS[here] and {there, here} != {"video", "model"}
        assert below or same_file_floor, f"{here} (floor {FLOORS[here]}) imports {there} (floor {FLOORS[there]})"


def test_every_part_has_a_floor():
    assert {part(path) for path in FILES} <= set(FLOORS)


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_in_its_own_place_alone(library):
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }
    assert users == HOMES[library] or (library == "torchvision.models" and users <= HOMES[library])


def test_the_report_needs_no_torch():
    for path in (PACKAGE / "report").glob("*.py"):
        assert not any(name.split(".")[0] in {"torch", "sklearn", "timm", "av"} for name in imports(path))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_says_what_it_answers_and_stays_short(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path}: no first line"
    assert len(path.read_text().splitlines()) <= 400

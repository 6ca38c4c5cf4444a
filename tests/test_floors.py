"""Imports go down one order of folders, without cycles; heavy libraries are imported in few files."""

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "finetune"
# From the bottom to the top: each folder (or file) may import those before it.
FOLDERS = (
    *(
        "version",
        "errors",
        "arguments",
        "text",
        "runtime",
        "storage",
        "recipe",
        "metrics",
        "vector_index",
        "data",
        "model",
        "run",
        "video",
        "tracking",
    ),
    *(
        "annotations",
        "feature_cache",
        "inference",
        "checks",
        "datasets",
        "evaluation",
        "prediction",
        "timeline",
        "objects",
        "retrieval",
        "summaries",
        "report",
        "train",
        "study",
        "labelling",
        "export",
        "publish",
        "serve",
        "cli",
    ),
)
FORBIDDEN_PAIRS = ({"model", "video"}, {"metrics", "data"})  # neither imports the other
ALLOWED_IMPORTERS = {
    "timm": {"model/backbone/timm_networks.py", "train/optim/optimizer.py"},
    "torchvision.models": {"model/backbone/torchvision_networks.py", "model/dense/detection.py"},
    "av": {
        *(
            f"video/decode/{name}.py"
            for name in ("container", "packet_index", "sparse", "read", "probe", "orientation")
        ),
        *(
            "video/decode/image_sequence.py",
            "video/decode/frame_array.py",
            "video/decode/live_source.py",
            "video/encode.py",
            *(
                f"video/cut/{name}.py"
                for name in ("write", "copied_frames", "encoded_frames", "sound", "compare_frames")
            ),
            "export/read_clip.py",  # a copy of it lies in exported folders, and runs without this package
        ),
    },
    "torchcodec": {"video/decode/opencv_torchcodec.py"},
    "accelerate": {
        *("runtime/device.py", "runtime/processes.py", "train/distributed.py", "train/log/trackers.py"),
        *("train/phase.py", "train/position.py", "train/setup/autotune.py", "train/state/signals.py", "train/step.py"),
    },
    "PIL": {"video/masks.py", "retrieval/two_towers.py"},
    "cv2": {
        *(
            "video/decode/opencv_torchcodec.py",
            "video/still_edges.py",
            "checks/copy_alignment.py",
            "video/draw_objects.py",
            "video/tube_frames.py",
            "prediction/overlay.py",
        ),
        *("video/pack/write.py", "video/pack/read.py"),  # JPEG: the fastest codec of those that are there anyway
        *("datasets/shapes.py", "datasets/quickstart.py"),
        *("timeline/screen.py", "video/decode/live_source.py"),
        "summaries/shots.py",
    },
}
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {".".join(("finetune", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}


def folder_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports(path, *, types=True):
    """Every module and every name that a file imports, dotted; with or without those for type checkers alone."""
    tree = ast.parse(path.read_text())
    if not types:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node))
        ]
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def test_every_folder_has_its_place_in_the_order():
    assert {folder_of(path) for path in FILES} - {"__init__", "__main__"} == set(FOLDERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    here = folder_of(path)
    if here in {"__init__", "__main__"}:
        return
    for name in imports(path):
        there = name.split(".")[1] if name.startswith("finetune.") else None
        if there in FOLDERS and there != here:
            assert FOLDERS.index(there) < FOLDERS.index(here), f"{here} imports {there}, which stands above it"
            assert {here, there} not in FORBIDDEN_PAIRS


def test_no_module_imports_itself_by_way_of_others():
    graph = {
        name: {other for other in imports(path, types=False) if other in MODULES} for name, path in MODULES.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


@pytest.mark.parametrize("library", ALLOWED_IMPORTERS)
def test_a_heavy_library_is_imported_in_few_files(library):
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if any(name == library or name.startswith(f"{library}.") for name in imports(path))
    }
    assert users == ALLOWED_IMPORTERS[library] or (
        library == "torchvision.models" and users <= ALLOWED_IMPORTERS[library]
    )


def test_only_commands_import_annotation_files():
    users = {
        folder_of(path) for path in FILES if any(name.startswith("finetune.annotations") for name in imports(path))
    }
    assert users == {"annotations", "cli"}


def test_the_report_needs_no_torch():
    """Not even through what it imports."""
    heavy = {"torch", "sklearn", "timm", "av"}
    todo = [name for name, path in MODULES.items() if folder_of(path) == "report"]
    seen = set(todo)
    while todo:
        names = set(imports(MODULES[todo.pop()]))
        assert not {name.split(".")[0] for name in names} & heavy
        todo += (names & set(MODULES)) - seen
        seen |= names & set(MODULES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_says_what_it_answers_and_stays_short(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path}: no first line"
    assert len(path.read_text().splitlines()) <= 400

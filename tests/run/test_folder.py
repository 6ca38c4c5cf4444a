"""Only `finetune/run/` knows the file names of a run folder."""

import ast
from pathlib import Path

import finetune
from finetune.run.folder import CheckpointFolder, EvaluationFolder, RunFolder

PACKAGE = Path(finetune.__file__).parent
PATHS = [
    path
    for folder in (RunFolder(Path("run")), CheckpointFolder(Path("run")), EvaluationFolder(Path("run")))
    for name in vars(type(folder))
    if isinstance(path := getattr(folder, name), Path)
]
FILES = {path.name for path in PATHS if path.suffix} | {".lock", "predictions.csv", "probabilities.npy"}
FOLDERS = {path.name for path in PATHS if not path.suffix} | {"evaluation"}
EXCEPTIONS = {  # (module, name): why
    ("recipe/load.py", "recipe.yaml"): "recipe/ lies below run/, and refuses references in a run folder's recipe",
    ("recipe/load.py", "manifest.csv"): "the same",
    ("recipe/load.py", "classes.json"): "the same",
    ("recipe/load.py", "environment.json"): "the same",
    ("recipe/load.py", "study.json"): "the same",
    ("serve/workspace.py", ".lock"): "the lock of a server's temporary folder",
    ("model/backbone/timm_networks.py", "model.safetensors"): "the Hugging Face Hub's name for weights",
    ("model/backbone/fetch_weights.py", "model.safetensors"): "the Hugging Face Hub's name for weights",
    ("datasets/quickstart.py", "manifest.csv"): "the manifest of a data set",
    ("datasets/quickstart_recordings.py", "manifest.csv"): "the same",
    ("cli/data.py", "manifest.csv"): "the manifest of a data set",
    ("vector_index/index.py", "index.json"): "an index of vectors is no run folder",
}


def names_in(path):
    """The run folder's names that a module spells: file names anywhere, folder names as parts of a path."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.rpartition("/")[2]
            if name in FILES and " " not in node.value:
                yield name
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield from {node.right.value} & FOLDERS


def test_names_are_known_and_found(tmp_path):
    assert {"results.json", "metrics.jsonl", "state.pt", "index.json", "report.html"} <= FILES
    assert {"checkpoints", "pictures", "evaluation"} <= FOLDERS
    (tmp_path / "a.py").write_text(
        'x = run / "evaluation" / "results.json"\ny = f"{run}/report.html"\nz = "evaluation"\n'
    )
    assert sorted(names_in(tmp_path / "a.py")) == ["evaluation", "report.html", "results.json"]


def test_no_other_module_spells_a_file_name_of_a_run_folder():
    """Take the path from finetune/run/folder.py; an exception that is no longer needed must go."""
    modules = [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "run"]
    spelled = {(path.relative_to(PACKAGE).as_posix(), name) for path in modules for name in names_in(path)}
    assert sorted(spelled) == sorted(EXCEPTIONS)

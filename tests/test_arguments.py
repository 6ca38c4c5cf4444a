"""Every public function and class refuses wrong arguments with a FinetuneError, and keeps its signature and help."""

import inspect
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from grey import TINY

import finetune as ft
from finetune.recipe.fields import Section


class Anything:
    def __init__(self, *given):
        pass


WRONG = {
    "None": None,
    "a number": 3,
    "a negative number": -1,
    "a huge number": 10**30,
    "a fraction": 0.5,
    "not a number": float("nan"),
    "true": True,
    "an empty text": "",
    "an unknown text": "nowhere",
    "a text with a zero": "a\0b",
    "bytes": b"a.mp4",
    "a missing path": Path("nowhere/at/all"),
    "an empty list": [],
    "a list of None": [None],
    "a list of a text": ["nowhere"],
    "a list of lists": [[1]],
    "a mapping": {"a": 1},
    "a set": {1},
    "an object": object(),
    "a function": lambda *given: given,
    "a class": Anything,
    "a section of a recipe": ft.Clip(),
    "an array of floats": np.zeros(3, np.float32),
    "an empty array": np.zeros((0, 4, 4, 3), np.uint8),
    "frames with channels first": np.zeros((2, 3, 8, 8), np.uint8),
    "an array without axes": np.array(1),
    "a tensor": torch.zeros(2, 2),
    "a pair of numbers": (0, -1),
}


@pytest.fixture(scope="module")
def calls(clip_folder, trained_run, tmp_path_factory):
    """A correct call of every public function and class, as (callable, arguments)."""
    folder = tmp_path_factory.mktemp("calls")
    trained_run = shutil.copytree(trained_run, folder / "trained")
    manifest, run, model = ft.Manifest.from_folder(clip_folder), ft.open_run(trained_run), ft.load(trained_run)
    video = manifest.path(0)
    clip = ft.Clip(num_frames=2, size=32)
    manifest.to_csv(folder / "clips.csv")
    fields = {name: getattr(manifest, name) for name in type(manifest).__dataclass_fields__}
    return {
        "ClipDataset": (ft.ClipDataset, {"manifest": manifest, "split": "train", "clip": clip}),
        "Manifest": (ft.Manifest, fields),
        "Manifest.from_csv": (ft.Manifest.from_csv, {"path": folder / "clips.csv"}),
        "Manifest.from_folder": (ft.Manifest.from_folder, {"path": clip_folder}),
        "Manifest.rows": (manifest.rows, {"split": "train"}),
        "Prediction": (ft.Prediction, {"path": video, "top_k": (("a", 1.0),)}),
        "Run": (ft.Run, {name: getattr(run, name) for name in type(run).__dataclass_fields__}),
        "VideoClassifier": (
            ft.VideoClassifier,
            {"backbone": model.backbone, "classes": ["a", "b"], "settings": model.settings, "num_frames": 4},
        ),
        "VideoClassifier.forward": (model.forward, {"clips": torch.zeros((1, 4, 3, 32, 32), dtype=torch.uint8)}),
        "VideoInfo": (ft.VideoInfo, vars(ft.probe(video))),
        "build_model": (
            ft.build_model,
            {"backbone": TINY, "classes": ["a", "b"], "weights": "none", "num_frames": 2, "size": 32},
        ),
        "describe": (ft.describe, {"model": model}),
        "evaluate": (ft.evaluate, {"run": trained_run, "out": folder / "evaluation", "pictures": False}),
        "fit": (
            ft.fit,
            {"model": model, "manifest": manifest, "phases": ft.Phase(epochs=1), "out": folder / "run", "quiet": True},
        ),
        "leave_out_classes": (ft.leave_out_classes, {"manifest": manifest, "classes": ["dark ones"]}),
        "load": (ft.load, {"run": trained_run}),
        "load_recipe": (ft.load_recipe, {"name": "folder"}),
        "open_run": (ft.open_run, {"run": trained_run}),
        "param_groups": (ft.param_groups, {"model": model, "lr": 0.1}),
        "predict": (ft.predict, {"run": model, "videos": video}),
        "predict_objects": (ft.predict_objects, {"run": trained_run, "video": video}),
        "probe": (ft.probe, {"path": video}),
        "read_frames": (ft.read_frames, {"path": video, "indices": [0, 1]}),
        "resume": (ft.resume, {"run": trained_run, "quiet": True}),
        "set_trainable": (ft.set_trainable, {"model": model, "what": "head"}),
        "write_report": (ft.write_report, {"run": trained_run}),
    }


OF_USERS = ("progress", "after_epoch", "cut")  # code of the user's, or only for the package itself


def test_every_public_callable_is_tried(calls):
    public = {name: getattr(ft, name) for name in ft.__all__}
    others = {name for name, kind in public.items() if isinstance(kind, type) and issubclass(kind, Exception | Section)}
    assert set(public) - others <= set(calls)


SLOW = ("evaluate", "predict", "resume", "write_report")
CALLS = (  # the other classes are made by the package: of them, only names are checked
    *("ClipDataset", "Manifest.from_csv", "Manifest.from_folder", "Manifest.rows", "VideoClassifier.forward"),
    *(pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ft.__all__ if name.islower()),
)


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_value_of_any_argument_is_refused_in_words_or_does_no_harm(calls, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("finetune.train.fit.run_training", lambda *args, **kwargs: Path())
    call, arguments = calls[name]
    for parameter in set(inspect.signature(call).parameters) - set(OF_USERS):
        for what, wrong in WRONG.items():
            try:
                call(**{**arguments, parameter: wrong})
            except ft.FinetuneError as error:
                assert "pydantic" not in str(error) and "numpy" not in str(error), (parameter, what)
            except Exception as error:
                pytest.fail(f"{parameter} {what}: {error!r}")


def test_an_unknown_name_is_refused_with_the_nearest_one_by_every_public_callable(calls):
    for name, (call, arguments) in calls.items():
        if name == "VideoClassifier.forward":
            continue
        right = next(iter(inspect.signature(call).parameters))
        with pytest.raises(ft.ArgumentError, match=rf"there is no argument '{right}s' \(nearest: {right}\b"):
            call(**arguments, **{f"{right}s": 1})
        with pytest.raises(TypeError):
            call()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ft.predict("run", "a.mp4", veiws=3), r"^predict: there is no argument 'veiws' \(nearest: views\)$"),
        (lambda: ft.probe("a.mp4", 3), "^probe: takes 1 arguments by position, not 2; by name: none$"),
        (lambda: ft.load("run", run="run"), "^load: run is given by position and by name$"),
        (lambda: ft.fit(phases="full"), "^fit: needs model, manifest$"),
        (lambda: ft.predict("run", "a.mp4", views="3"), "^predict: views is '3'; it takes int or None$"),
        (lambda: ft.predict("run", "a.mp4", on_error="skp"), "on_error is 'skp'; it takes 'fail' or 'skip'$"),
        (lambda: ft.build_model("resnet18", "ab"), "^build_model: classes is 'ab'; it takes a list of str$"),
        (lambda: ft.read_frames("a.mp4", [0], size=(2, "3")), r"size is of type tuple; it takes \(int, int\) or None$"),
        (lambda: ft.set_trainable(3, "head"), "^set_trainable: model is 3; it takes StagedModel$"),
    ],
)
def test_the_message_says_what_the_call_takes(wrong, message):
    with pytest.raises(ft.ArgumentError, match=message):
        wrong()


def test_numbers_and_lists_of_numpy_are_right(calls):
    _, arguments = calls["read_frames"]
    frames, _ = ft.read_frames(arguments["path"], np.arange(2), size=(np.int64(8), 8))
    assert frames.shape == (2, 3, 8, 8)


def test_signature_help_and_pickling_stay():
    assert list(inspect.signature(ft.predict).parameters)[:3] == ["run", "videos", "views"]
    assert (
        ft.predict.__doc__.startswith("Predictions for files")
        and ft.predict.__module__ == "finetune.prediction.predict"
    )
    assert pickle.loads(pickle.dumps(ft.probe)) is ft.probe


CLIPS = {
    "no batch": (torch.zeros(4, 3, 8, 8, dtype=torch.uint8), r"not \(4, 3, 8, 8\)$"),
    "channels last": (torch.zeros(1, 4, 8, 8, 3, dtype=torch.uint8), r"not \(1, 4, 8, 8, 3\)$"),
    "values from 0 to 1": (torch.rand(1, 4, 3, 8, 8), "values from 0 to 255, not "),
    "normalized values": (torch.randn(1, 4, 3, 8, 8), "values from 0 to 255, not -"),
}


@pytest.mark.parametrize("wrong", CLIPS)
def test_a_model_refuses_clips_of_another_shape_or_range(calls, wrong):
    clips, message = CLIPS[wrong]
    with pytest.raises(ft.ModelError, match=message):
        calls["VideoClassifier.forward"][0](clips)


def test_what_a_user_gets_prints_as_a_line_or_two(calls):
    run, model = ft.open_run(calls["load"][1]["run"]), calls["VideoClassifier.forward"][0].__self__
    assert repr(run) == f"Run('{run.folder}': test_resnet, 2 classes)"
    first, _second = repr(model).splitlines()
    assert first.startswith("VideoClassifier(test_resnet, concat, linear; 2 classes; ") and "T=4, C=3, H=32" in first
    (prediction,) = ft.predict(model, calls["predict"][1]["videos"])
    assert repr(prediction).startswith(f"Prediction('{prediction.path}': {prediction.predicted} ")

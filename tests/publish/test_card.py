"""Model cards: true for each kind of run, readable by the hub, and without names of clips, paths or groups."""

import csv
import json
import re
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from publish.local_hub import card_problems
from reported import SIX, write_run, write_run_of_tasks, write_whole_run

from finetune.errors import FinetuneError
from finetune.publish.card import model_card
from finetune.recipe.load import save_recipe
from finetune.recipe.schema import Recipe

ODD = ["<img src=x onerror=alert(1)>", "a | b", "[x](javascript:alert(1))", "挥手", "@octocat #12"]
KINDS = {"action": "classify", "where": "box", "track": "motion", "speed": "regress", "level": "ordinal"}
NAMES = {"classify": SIX, "box": [*"xywh"], "motion": ["dx", "dy"], "regress": ["speed"], "ordinal": ["low", "high"]}
WEIGHTS = {
    "source": "timm",
    "name": "resnet18.a1_in1k",
    "licence": "apache-2.0",
    "url": "https://huggingface.co/timm/resnet18.a1_in1k",
    "hub_id": "timm/resnet18.a1_in1k",
}


def complete(run, *, classes=SIX, weights=WEIGHTS, group="anna", tasks=None, **recipe):
    """Add the files of a trained run to the results of `reported`."""
    tasks = tasks or {}
    (run / "classes.json").write_text(json.dumps(classes))
    settings = {"data": {"manifest": "/home/anna/clips.csv"}, "clip": {"size": 96}, "phases": [{"unfreeze": "head"}]}
    columns = {name: {"kind": kind, "manifest": "/home/anna/boxes.csv"} for name, kind in tasks.items()}
    save_recipe(Recipe.model_validate(settings | {"tasks": columns} | recipe), run / "recipe.yaml")
    if tasks:
        outputs = {
            name: {"kind": kind, "names": NAMES[kind], "center": [], "scale": []} for name, kind in tasks.items()
        }
        for output in outputs.values():
            if output["kind"] in ("box", "motion", "regress"):
                output |= {"center": [0.0] * len(output["names"]), "scale": [1.0] * len(output["names"])}
        (run / "tasks.json").write_text(json.dumps(outputs))
    environment = {"format": 1, "command": "finetune train /home/anna/recipe.yaml"} | (
        {"weights": weights} if weights else {}
    )
    (run / "environment.json").write_text(json.dumps(environment))
    with (run / "manifest.csv").open("w", newline="") as file:
        rows = [
            (f"/home/anna/clip{number}.mp4", classes[0], split, f"{group}{number % 4}{split}")
            for number, split in enumerate(["train"] * 8 + ["val"] * 2 + ["test"] * 2)
        ]
        csv.writer(file).writerows([("path", "label", "split", "group"), *rows])
    return run


def read(run, **how):
    """The metadata and the text of a card, which the hub accepts and which names nothing private."""
    card = model_card(run, **how)
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert card_problems(metadata) == []
    assert ModelCard(card).data.to_dict() == metadata
    for private in ("/home", "anna", str(run.parent), "clip0", "boxes.csv"):
        assert private not in card, private
    return metadata, ModelCard(card).text


def test_a_card_has_the_figures_with_intervals_the_split_and_the_licence(tmp_path):
    results = write_whole_run(tmp_path / "mine", temperature=1.3)
    metadata, text = read(complete(tmp_path / "mine"))
    task = results["tasks"]["label"]
    assert metadata["license"] == "apache-2.0" and metadata["base_model"] == "timm/resnet18.a1_in1k"
    assert metadata["pipeline_tag"] == "video-classification" and metadata["library_name"] == "finetune"
    (result,) = metadata["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["accuracy"] == round(task["top1"], 4) and values["f1"] == round(task["macro_f1"], 4)
    assert result["dataset"] == {"name": "Own videos", "type": "own-videos", "split": "test"}
    low, high = task["top1_ci"]
    assert f"| {100 * task['top1']:.1f} % | {100 * low:.1f}–{100 * high:.1f} % |".replace(" %", "\u00a0%") in text
    assert "predicts one of 6 classes" in text
    assert "| train | 8 | 4 |" in text and "each is in one split alone" in text
    assert "a temperature of 1.3, fitted on validation clips" in text
    assert "resnet18.a1_in1k of timm; licence apache-2.0. Published at <https://huggingface.co/timm/resnet18" in text
    assert "finetune predict hf://OWNER/NAME video.mp4" in text


def test_groups_in_several_splits_and_no_groups_are_told(tmp_path):
    write_run(tmp_path)
    complete(tmp_path)
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,label,split,group\na.mp4,x,train,g\nb.mp4,x,test,g\n")
    assert "1 group is in more than one split, so that the results may be too good" in model_card(tmp_path)
    manifest.write_text("path,label,split\na.mp4,x,train\nb.mp4,x,test\n")
    assert "No groups are known" in model_card(tmp_path)
    manifest.unlink()
    assert "How the clips were split" not in model_card(tmp_path)


@pytest.mark.parametrize(
    ("weights", "metadata", "words"),
    [
        (
            WEIGHTS | {"licence": "cc-by-nc-4.0"},
            {"license": "cc-by-nc-4.0"},
            "allows non-commercial use or research only",
        ),
        (
            WEIGHTS | {"licence": "dinov3-license"},
            {"license": "other", "license_name": "dinov3-license", "license_link": WEIGHTS["url"]},
            "which has terms of its own",
        ),
        ({"source": "file", "name": "net.pth"}, {"license": "unknown"}, "net.pth; licence not stated"),
        ({"source": "none"}, {}, "random, not pretrained"),
        (None, {"license": "unknown"}, "were not recorded"),
    ],
)
def test_the_licence_is_that_of_the_weights(tmp_path, weights, metadata, words):
    write_run(tmp_path)
    read_metadata, text = read(complete(tmp_path, weights=weights))
    assert {key: value for key, value in read_metadata.items() if key.startswith("license")} == metadata
    assert words in text


def test_the_publisher_may_choose_licence_and_data_set(tmp_path):
    write_run(tmp_path)
    metadata, text = read(complete(tmp_path), licence="mit", dataset="me/clips", repo="me/model")
    assert metadata["license"] == "mit" and metadata["datasets"] == ["me/clips"]
    assert metadata["model-index"][0]["name"] == "model"
    assert metadata["model-index"][0]["results"][0]["dataset"]["type"] == "me/clips"
    assert "hf://me/model" in text and "gives the licence `mit` to this model" in text
    assert read(tmp_path, licence="MIT")[0]["license"] == "mit", "the hub knows its licences in lower case"
    with pytest.raises(FinetuneError, match="is not a data set of the hub"):
        model_card(tmp_path, dataset="clips")
    with pytest.raises(FinetuneError, match="model: is no name of a model on the hub"):
        model_card(tmp_path, repo="model")


def test_a_card_does_not_name_the_pack_that_the_clips_were_read_from(tmp_path):
    results = write_run(tmp_path, per_class=2)
    results["protocol"] |= {"decoder": "the pack /home/anna/pack"}
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(results))
    _, text = read(complete(tmp_path, data={"packed": "/home/anna/pack"}))
    assert "| Video decoder | a pack of frames |" in text


def test_names_with_underscores_are_plain_and_quotes_have_no_blanks_inside(tmp_path):
    names = ["hand_shaking", "hugging"]
    write_run(tmp_path, classes=names, per_class=3)
    _, text = read(complete(tmp_path, classes=names), repo="me/few_clips")
    assert "# few_clips\n" in text and "`hand_shaking`, `hugging`" in text
    assert "test clips per class: “hand_shaking”, “hugging”" in text
    assert "&#" not in text and "<code>" not in text and "\n\n\n" not in text


def test_names_show_as_text_and_never_become_markup(tmp_path):
    write_run(tmp_path, classes=ODD, per_class=4, wrong=0.4)
    _, text = read(complete(tmp_path, classes=ODD))
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    assert "<img" not in page and set(re.findall("<a [^>]*>", page)) == {f'<a href="{WEIGHTS["url"]}">'}
    assert "挥手" in page


def test_several_tasks_are_described_one_by_one(tmp_path):
    write_run_of_tasks(tmp_path, KINDS)
    metadata, text = read(complete(tmp_path, tasks=KINDS))
    assert {"multi-task", *KINDS.values()} <= set(metadata["tags"])
    by_type = {result["task"]["type"]: result for result in metadata["model-index"][0]["results"]}
    assert by_type.keys() == {"video-classification", "other"}
    assert "name" not in by_type["other"]["task"], "it has the metrics of several tasks"
    names = {metric["name"] for metric in by_type["other"]["metrics"]}
    assert {"Mean IoU of where", "Correlation of track"} <= names
    assert "`where`: the box of one object in the middle frame" in text
    assert "`speed`: 1 number: speed" in text
    assert "Boxes and motion are of one object" in text
    assert "Mean IoU with the true boxes is 66" in text


def test_numbers_alone_are_no_video_classification(tmp_path):
    write_run_of_tasks(tmp_path, {"speed": "regress"})
    metadata, text = read(complete(tmp_path, tasks={"speed": "regress"}))
    assert "pipeline_tag" not in metadata
    assert "## Classes" not in text and "one of the classes" not in text and "calibrated" not in text


def test_several_labels_and_background(tmp_path):
    write_run(tmp_path)
    _, text = read(complete(tmp_path, data={"background": "kicking"}))
    assert "The class `kicking` stands for none of the others." in text
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    results["tasks"]["label"] |= {"kind": "multilabel", "map": 0.8, "map_ci": [0.7, 0.9], "chance_map": 0.2}
    results["tasks"]["label"] |= {"micro_f1": 0.7, "micro_f1_ci": [0.6, 0.8]}
    for key in ("confusion", "majority", "calibration", "calibrated", "curves", "abstain"):
        results["tasks"]["label"].pop(key, None)
    for row in results["tasks"]["label"]["per_class"]:
        row["ap"] = 0.5
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(results))
    _, text = read(complete(tmp_path, data={"multilabel": True}))
    assert "which of 6 classes it shows: several, one or none" in text
    assert "Each clip gets one of the classes" not in text and "Mean average precision" in text


def test_a_cross_validation_says_that_it_is_several_models(tmp_path):
    results = write_run(tmp_path)
    results["folds"] = [{"run": f"fold-{number}", "num_rows": 60, "top1": 0.9} for number in (1, 2)]
    results["protocol"] |= {"cross_validation": "2 folds, of whole groups"}
    (tmp_path / "evaluation" / "results.json").write_text(json.dumps(results))
    _, text = read(complete(tmp_path))
    assert "Cross-validation: 2 folds, of whole groups." in text
    assert "A cross-validation has no one model" in text and "hf://" not in text
    assert "of one training run" not in text


def test_a_run_that_was_not_evaluated_says_so(tmp_path):
    write_run(tmp_path)
    complete(tmp_path)
    (tmp_path / "evaluation" / "results.json").unlink()
    metadata, text = read(tmp_path)
    assert "This model has not been evaluated." in text and "model-index" not in metadata


def test_own_parts_are_named_and_asked_for(tmp_path):
    write_run(tmp_path)
    _, text = read(complete(tmp_path, model={"head": "mine:Head"}))
    assert "code that is not published with this model: model.head `mine:Head`" in text
    assert "finetune predict hf://OWNER/NAME video.mp4 --part model.head=MODULE:NAME" in text


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(FinetuneError, match="is no run folder, and no exported model"):
        model_card(tmp_path)


def test_the_command_prints_or_writes_the_card_without_torch(tmp_path, finetune):
    write_run(tmp_path / "run")
    complete(tmp_path / "run")
    code = f"import sys; from finetune.publish.card import model_card; model_card({str(tmp_path / 'run')!r}); "
    subprocess.run([sys.executable, "-c", f"{code}assert 'torch' not in sys.modules"], check=True)
    status, printed, _ = finetune("card", tmp_path / "run")
    assert status == 0 and printed.startswith("---\n")
    written = tmp_path / "new folder" / "README.md"
    status, out, _ = finetune("card", tmp_path / "run", "--out", written)
    assert status == 0 and out.strip() == str(written)
    assert written.read_text() == printed and printed.endswith("|\n")

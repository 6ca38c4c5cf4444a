"""A recipe without what it says about the user's machine and data: it still describes the model and its training."""

from pathlib import Path

from finetune.recipe.schema import Recipe


def public_recipe(recipe: Recipe) -> Recipe:
    """The recipe without paths and addresses of data, patterns of file names, and online trackers.

    Of a file of weights the name is left.
    """
    weights = recipe.model.weights
    no_data = {"manifest": None, "folder": None, "packed": None, "group_pattern": None}
    return recipe.model_copy(
        update={
            "data": recipe.data.model_copy(update=no_data),
            "model": recipe.model.model_copy(update={"weights": Path(weights).name}),
            "train": recipe.train.model_copy(update={"cache_dir": None, "trackers": ()}),
            "tasks": {name: task.model_copy(update={"manifest": None}) for name, task in recipe.tasks.items()},
        }
    )

"""The settings of a frozen backbone that embeds clips: which are possible, and those that an index records."""

from finetune.errors import IndexFolderError, RecipeError, reason_of
from finetune.recipe.own_parts import own_parts
from finetune.recipe.schema import Clip, Model, Recipe
from finetune.retrieval.tower_names import is_tower_name, parse_tower_name
from finetune.vector_index.entry import EmbeddingSource

FIXED = (
    "mean",
    "concat",
    "changes",
    "max",
    "topk",
    "diff",
    "slope",
)  # poolings over time without weights that must be trained


def check_frozen_settings(recipe: Recipe) -> None:
    """Raise RecipeError where a recipe's model has parts that must be trained before its vectors mean anything.

    For a model of open_clip, raises ModelError for a name of another form, and RunError where open_clip is missing.
    """
    if is_tower_name(recipe.model.backbone):
        parse_tower_name(str(recipe.model.backbone))
    if parts := own_parts(recipe):
        raise RecipeError(
            f"{', '.join(parts)}: an own part cannot be used for frozen features; train a run, and give it as --run"
        )
    if recipe.model.temporal not in FIXED:
        raise RecipeError(
            f"model.temporal={recipe.model.temporal} has weights that must be trained; for frozen features take "
            f"{', '.join(FIXED)}, or train a run, and give it as --run"
        )


def recipe_of_source(source: EmbeddingSource, recipe: Recipe) -> Recipe:
    """A recipe with the settings that the source of an index records. Raises IndexFolderError for damaged ones."""
    try:
        clip = Clip.model_validate(source.settings["clip"])
        model = Model.model_validate(source.settings["model"])
    except (KeyError, ValueError) as error:
        raise IndexFolderError(
            f"{source.name}: the settings of the model that made the index are damaged "
            f"({reason_of(error, limit=150)}); index the videos again into a new folder"
        ) from None
    return recipe.model_copy(update={"clip": clip, "model": model, "seed": source.settings.get("seed", 0)})

"""Open the embedder that made an index again, to embed queries and to add to it."""

from collections.abc import Mapping
from typing import Any

from finetune.errors import IndexFolderError, RunError
from finetune.recipe.load import load_recipe
from finetune.recipe.schema import Recipe
from finetune.retrieval.backbone_embedder import BackboneEmbedder
from finetune.retrieval.embedder import Embedder
from finetune.retrieval.frozen_settings import recipe_of_source
from finetune.retrieval.run_embedder import RunEmbedder
from finetune.retrieval.text_embedder import TextEmbedder
from finetune.retrieval.tower_names import is_tower_name
from finetune.run.read import open_run
from finetune.storage.numbered_images import DEFAULT_IMAGE_FPS
from finetune.vector_index.entry import EmbeddingSource

BASE_RECIPE = "folder"  # of a frozen backbone, whose settings replace its sections `clip` and `model`


def new_embedder(recipe: Recipe) -> Embedder:
    """The embedder of model.backbone of a recipe: a model of open_clip by its name, or else a frozen backbone.

    Raises ModelError for missing weights.
    """
    return TextEmbedder(recipe) if is_tower_name(recipe.model.backbone) else BackboneEmbedder(recipe)


def open_embedder(
    source: EmbeddingSource, *, parts: Mapping[str, Any] | None = None, image_rate: float = DEFAULT_IMAGE_FPS
) -> Embedder:
    """The embedder with this source; `parts` are a run's own parts by recipe key.

    In windows of a folder of numbered images, a second has `image_rate` images, or as many as the run says.

    Raises IndexFolderError where the weights are others than when the index was made, or the run is not there.
    """
    embedder: Embedder
    recipe = load_recipe(BASE_RECIPE, [f"data.image_rate={image_rate}"])
    if source.kind == "run":
        try:
            run = open_run(source.name, parts=parts)
        except RunError as error:
            raise IndexFolderError(f"the index was made with a run that cannot be opened: {error}") from None
        embedder = RunEmbedder(run)
    elif source.kind == "backbone":
        embedder = BackboneEmbedder(recipe_of_source(source, recipe))
    else:
        embedder = TextEmbedder(recipe_of_source(source, recipe))
    if embedder.source.weights != source.weights:
        raise IndexFolderError(
            f"{source.name}: its weights have changed since the index was made (hash {source.weights[:12]}…, "
            f"now {embedder.source.weights[:12]}…), so vectors "
            "cannot be compared; index the videos again into a new folder"
        )
    return embedder

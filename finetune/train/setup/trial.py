"""Set up training steps whose result is discarded, to estimate a run or to find a learning rate."""

from dataclasses import dataclass
from pathlib import Path

from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.recipe.schema import Recipe
from finetune.runtime.device import resolve_device, resolve_precision
from finetune.train.loaders import TrainLoaders
from finetune.train.log.console import Display
from finetune.train.phase import build_setup
from finetune.train.setup.preflight import load_file_facts
from finetune.train.setup.resolve import resolve_recipe
from finetune.train.step import TrainSetup


@dataclass(frozen=True)
class Trial:
    """What training steps need, without a run folder. `lr_factor`: the factor of batch_size auto on learning rates."""

    setup: TrainSetup
    loaders: TrainLoaders
    lr_factor: float


def build_trial(model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> Trial:
    """Set up training steps as `fit` does; the model is not usable afterwards.

    Raises FinetuneError for everything that `fit` would refuse.
    """
    display, device = Display(quiet=False), resolve_device(recipe.train.device)
    recipe, decided = resolve_recipe(model, manifest, recipe, folder=Path("runs") / "trial", display=display)
    facts = load_file_facts(manifest, recipe, display)
    precision = resolve_precision(recipe.train.precision, device)
    setup = build_setup(model, manifest.without(facts.bad), recipe, precision=precision, is_trial=True)
    assert isinstance(recipe.train.batch_size, int)
    outputs = model.outputs if model.multitask_spec else None
    loaders = TrainLoaders(
        manifest, recipe, facts, batch_size=recipe.train.batch_size, share=setup.share, outputs=outputs
    )
    return Trial(setup, loaders, decided.get("batch_size", {}).get("rate_factor", 1.0))

"""Steps that are learnt from and thrown away: to see what a run would take, and which rate it can bear."""

from pathlib import Path

from torch.optim import Optimizer

from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.model.frozen_prefix import Cut
from finetune.recipe.phase_presets import resolve_phases
from finetune.recipe.schema import Phase, Recipe, Schedule
from finetune.runtime.device import autocast, resolve_device, resolve_precision
from finetune.train.loaders import TrainLoaders
from finetune.train.log.console import Display
from finetune.train.loss.multitask import StepContext
from finetune.train.loss.objective import build_objective
from finetune.train.mixup import mix_clips
from finetune.train.setup.autotune import describe_auto_settings, resolve_auto_settings
from finetune.train.setup.preflight import load_file_facts, run_preflight_checks
from finetune.video.loader import Batch


class TrialTrainer:
    """A model on its device with loaders and loss as training has them, and no run folder.

    The model is worth nothing afterwards. Raises FinetuneError for all that `fit` would refuse.
    """

    def __init__(self, model: VideoClassifier, manifest: Manifest, recipe: Recipe) -> None:
        clip = recipe.clip.model_copy(update={"size": model.size})
        phases = resolve_phases(recipe.phases, tuple(model.stages))
        recipe = recipe.model_copy(update={"clip": clip, "phases": phases})
        run_preflight_checks(model, manifest, recipe, folder=Path("runs") / "trial")
        recipe, decided = resolve_auto_settings(model, manifest, recipe)
        for line in describe_auto_settings(decided):
            Display(quiet=False).print_line(line)
        facts = load_file_facts(manifest, recipe, Display(quiet=False))
        train = recipe.train
        self.rate_factor: float = decided.get("batch_size", {}).get("rate_factor", 1.0)  # on those of the recipe
        assert isinstance(train.batch_size, int)
        assert not isinstance(recipe.phases, Schedule)
        self.recipe, self.manifest, self.model = recipe, manifest, model
        self.phases: list[Phase] = [phase.with_train_defaults(train) for phase in recipe.phases]
        self.device = resolve_device(train.device)
        self.precision = resolve_precision(train.precision, self.device)
        self.model.to(self.device).checkpointing = train.activation_checkpointing
        outputs = model.outputs if model.multitask_spec else None
        self.loaders = TrainLoaders(manifest, recipe, facts, batch_size=train.batch_size, share=(0, 1), outputs=outputs)
        self.objective = build_objective(model, manifest.without(facts.bad), recipe, lambda sums: sums)

    def step(self, batch: Batch, optimizer: Optimizer, *, number: int = 0, cut: Cut | None = None) -> float:
        """Learn from a batch of the loaders, or with a `cut` from one of what enters there; its loss before."""
        train, loss = self.recipe.train, 0.0
        assert isinstance(train.batch_size, int)
        clips, targets = mix_clips(
            batch["clips"].flatten(0, 1).to(self.device),
            batch["label"].to(self.device),
            augment=self.recipe.augment,
            num_classes=len(self.model.classes),
            seed=number,
        )
        self.objective.begin(targets, StepContext(number, compare_gradients=False))
        for part, labels in zip(clips.split(train.batch_size), targets.split(train.batch_size), strict=True):
            with autocast(self.precision, self.device):
                said = self.model(part, cut)
            share = len(part) / len(clips)
            part_loss = share * self.objective.loss(said, labels, share)
            part_loss.backward()
            loss += float(part_loss.detach())
        optimizer.step()
        optimizer.zero_grad()
        return loss

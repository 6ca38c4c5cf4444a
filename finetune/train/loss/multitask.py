"""Losses of several tasks: over the rows that have the label, divided by their size, weighed, and compared."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finetune.data.labels import TargetLayout
from finetune.data.manifest import Manifest
from finetune.model.classifier import VideoClassifier
from finetune.recipe.tasks import CLASSIFICATION_KINDS, DEFAULT_LOSS, OutputSpec
from finetune.train.loss.losses import build_loss
from finetune.train.loss.task_weighting import build_weighting

LOSS_EMA_DECAY = 0.9  # of the running mean that losses are divided by
REGRESSION_LOSSES: dict[str, Callable[..., Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
}
LossFn = Callable[[Tensor, Tensor], Tensor]


class StepContext(NamedTuple):
    """What a step is besides its clips: the number that its chance follows from, and whether gradients are compared."""

    draw: int
    compare_gradients: bool
    processes: int = 1
    is_dummy_batch: bool = False  # this process has no clip of the step, and computes a black one in its place


class MultitaskObjective:
    """The losses of a model's tasks and the rule that weighs them.

    Each is the mean over the rows of the whole step, of all processes, that have its label; a row without adds nothing,
    and no gradient. It counts as its weight in the recipe says, times the rule's, divided by its size. A rule that
    looks at gradients sees those of the step's first part, at the earliest activations that tasks read and that can
    still learn.
    """

    def __init__(
        self,
        model: VideoClassifier,
        manifest: Manifest,
        loss: str,
        *,
        smoothing: float,
        reduce: Callable[[Tensor], Tensor],
    ) -> None:
        spec = model.multitask_spec
        assert spec is not None and model.sharing is not None
        self.model, self.sharing, self.spec, self.reduce = model, model.sharing, spec, reduce
        self.names = list(spec.tasks)
        self.layout = TargetLayout(spec.outputs)
        rows = manifest.rows("train")
        self.losses = {}
        for name, task in spec.tasks.items():
            kind, counts = task.loss or DEFAULT_LOSS.get(task.kind, loss), manifest.tasks[name].counts(rows)
            self.losses[name] = _build_task_loss(kind, spec.outputs[name], counts, smoothing)
        self.rule = build_weighting(spec.multitask.weighting, len(self.names))
        self.wants_losses_after = self.rule.wants_losses_after
        self.chosen = torch.tensor([task.weight for task in spec.tasks.values()], dtype=torch.float64)
        self.divisors = torch.full((len(self.names),), torch.nan, dtype=torch.float64)
        if spec.multitask.normalize_losses == "none":
            self.divisors.fill_(1.0)
        if self.rule.weighs_gradients:
            self.sharing.gates = torch.ones(len(self.names), device=model.backbone.mean.device)
        self.epoch = TaskEpochSums(len(self.names))

    def begin(self, targets: Tensor, step: StepContext) -> None:
        """Learn how many rows of the step have each label."""
        known_M = self._known(targets).sum(0).double().cpu()
        clips = 0 if step.is_dummy_batch else len(targets)
        totals = self.reduce(torch.cat([known_M, torch.tensor([clips], dtype=torch.float64)]))
        self.step, self.clips = step, totals[-1]
        self.factors = torch.where(totals[:-1] > 0, totals[-1] / totals[:-1].clamp_min(1), torch.nan)
        self.noted = torch.zeros(len(self.names), dtype=torch.float64)
        self.weights: Tensor | None = None

    def loss(self, said: Mapping[str, Tensor], targets: Tensor, share: float) -> Tensor:
        """Of a part of the step's clips, which is that `share` of the mean over all clips of all processes."""
        sums = self._sums(said, targets)
        means = [each * self.factors[number].nan_to_num() / len(targets) for number, each in enumerate(sums)]
        there = torch.stack([each.detach() for each in means]).double().cpu() * share / self.step.processes
        self.noted += there
        if self.weights is None:
            self._weigh(means, self._first_losses(sums, targets), share)
        assert self.weights is not None
        return sum(
            (weight * each for weight, each in zip(self.weights.tolist(), means, strict=True)), start=sums[0] * 0
        )

    def penalty(self) -> Tensor | float:
        """The penalties of soft sharing: between tasks, and between towers."""
        settings, total = self.spec.multitask, torch.zeros(())
        if settings.soft_sharing_heads:
            total = total + settings.soft_sharing_heads * task_distance(self.model.task_parameters())
        if settings.soft_sharing_towers:
            total = total + settings.soft_sharing_towers * self.model.backbone.tower_distance()
        return total if settings.soft_sharing_heads or settings.soft_sharing_towers else 0.0

    def judged(self, said: Sequence[Mapping[str, Tensor]], targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Logits and targets of the rows that have the primary task's label, where it has classes."""
        name = self.model.primary
        if self.spec.outputs[name].kind not in CLASSIFICATION_KINDS:
            return None
        known = self._known(targets)[:, self.names.index(name)]
        return torch.cat([each[name].float() for each in said])[known], targets[known, self.layout.places[name]]

    def after_step(self, again: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Let the rule learn from the step; `again`: what is said of the same clips now, with their targets."""
        losses = self._whole(self.noted)
        after = None
        if again:
            sums = [torch.stack(self._sums(said, targets)).double().cpu() for said, targets in again]
            after = self._whole(torch.stack(sums).sum(0) * self.factors.nan_to_num() / self.clips) / self.divisors
        assert self.weights is not None
        self.rule.after_step(losses / self.divisors, after)
        self.epoch.add(losses, self.weights * self.gates if self.rule.weighs_gradients else self.weights)
        known = losses.isfinite()
        if self.spec.multitask.normalize_losses == "running":
            self.divisors = torch.where(
                known, LOSS_EMA_DECAY * self.divisors + (1 - LOSS_EMA_DECAY) * losses, self.divisors
            )
        unseen = known & self.divisors.isnan()  # a step's first part had no row with the label
        self.divisors = torch.where(unseen, losses, self.divisors).clamp_min(1e-8)

    def after_epoch(self) -> dict[str, Any]:
        """What the record of an epoch says of tasks while they learn."""
        means = self.epoch.mean(self.epoch.losses, self.epoch.counts)
        self.rule.after_epoch(means / self.divisors)
        weights = self.epoch.mean(self.epoch.weights, self.epoch.steps)
        told = {
            "tasks": {name: {"train_loss": _float_or_none(mean)} for name, mean in zip(self.names, means, strict=True)},
            "weights": dict(zip(self.names, map(_float_or_none, weights), strict=True)),
            "cosines": {
                f"{self.names[one]} | {self.names[other]}": _float_or_none(self.epoch.cosines[one, other] / count)
                for one, other in combinations(range(len(self.names)), 2)
                if (count := self.epoch.compared[one, other]) > 0
            },
        }
        self.epoch = TaskEpochSums(len(self.names))
        return told

    def state(self) -> dict[str, Any]:
        return {"rule": self.rule.state(), "divisors": self.divisors, "epoch": self.epoch.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rule.restore(state["rule"])
        self.divisors = state["divisors"]
        self.epoch.restore(state["epoch"])

    def _known(self, targets: Tensor) -> Tensor:
        """Which rows have each task's label (B, M); where two were blended, both have to."""
        return targets[:, self.layout.width - len(self.names) :] > 0.999

    def _sums(self, said: Mapping[str, Tensor], targets: Tensor) -> list[Tensor]:
        """Of each task the sum over rows that have its label."""
        known_BM, sums = self._known(targets), []
        for number, (name, place) in enumerate(self.layout.places.items()):
            known_B, output = known_BM[:, number], said[name].float()
            if not known_B.any():
                sums.append(0.0 * output.sum())
                continue
            sums.append(self.losses[name](output[known_B], targets[known_B, place]) * known_B.sum())
        return sums

    def _whole(self, sums: Tensor) -> Tensor:
        """Of all processes, NaN for tasks of which no row has the label."""
        return torch.where(self.factors.isnan(), torch.nan, self.reduce(sums))

    def _first_losses(self, sums: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Of the step's first part, over all processes (M,)."""
        own = torch.stack([each.detach() for each in sums]).double().cpu()
        found = self.reduce(torch.cat([own, self._known(targets).sum(0).double().cpu()]))
        sums_M, known_M = found.chunk(2)
        return sums_M / torch.where(known_M > 0, known_M, torch.nan)

    def _weigh(self, means: Sequence[Tensor], losses: Tensor, share: float) -> None:
        """Settle, in a step's first part, how much each task counts in it."""
        new = self.divisors.isnan() & losses.isfinite()
        self.divisors = torch.where(new, losses.clamp_min(1e-8), self.divisors)
        scale = (self.chosen / self.divisors).nan_to_num()
        gramian = None
        if self.rule.wants_gradients or self.step.compare_gradients:
            gramian = self._gramian(means, scale * share / self.step.processes)
        if gramian is not None:
            self.epoch.compare(gramian)
        weights = torch.ones(len(self.names), dtype=torch.float64)
        if gramian is not None or not self.rule.wants_gradients:
            weights = self.rule.weights(losses / self.divisors, gramian, draw=self.step.draw)
        self.gates = torch.ones(len(self.names), dtype=torch.float64)
        if self.rule.weighs_gradients:
            self.gates = weights
            assert self.sharing.gates is not None
            self.sharing.gates.copy_(weights)
            self.weights = scale
        else:
            self.weights = scale * weights

    def _gramian(self, means: Sequence[Tensor], scale: Tensor) -> Tensor | None:
        """Inner products of the tasks' gradients (M, M) at what they share; None where nothing of it learns."""
        shared = self.sharing.shared_activations()
        if not shared:
            return None
        if self.sharing.gates is not None:
            self.sharing.gates.fill_(1.0)
        rows = []
        for mean, factor in zip(means, scale.tolist(), strict=True):
            found = torch.autograd.grad(mean, shared, retain_graph=True, allow_unused=True, materialize_grads=True)
            rows.append(factor * torch.cat([each.float().flatten() for each in found]))
        stacked = torch.stack(rows)
        return self.reduce((stacked @ stacked.T).double().cpu())


class TaskEpochSums:
    """Sums over the steps of an epoch under way."""

    def __init__(self, tasks: int) -> None:
        self.losses = torch.zeros(tasks, dtype=torch.float64)
        self.counts = torch.zeros(tasks, dtype=torch.float64)
        self.weights = torch.zeros(tasks, dtype=torch.float64)
        self.steps = torch.zeros((), dtype=torch.float64)
        self.cosines = torch.zeros((tasks, tasks), dtype=torch.float64)
        self.compared = torch.zeros((tasks, tasks), dtype=torch.float64)

    def add(self, losses: Tensor, weights: Tensor) -> None:
        self.losses += losses.nan_to_num()
        self.counts += losses.isfinite()
        self.weights += weights
        self.steps += 1

    def compare(self, gramian: Tensor) -> None:
        norms = gramian.diagonal().clamp_min(0).sqrt()
        products = norms[:, None] * norms
        there = (products > 0) & gramian.isfinite()
        self.cosines += torch.where(there, gramian / products, 0.0).clamp(-1, 1)
        self.compared += there

    def mean(self, sums: Tensor, counts: Tensor) -> Tensor:
        return sums / torch.where(counts > 0, counts, torch.nan)

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in vars(self).items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.clone())


def check_weighting(name: str) -> None:
    """Raise FinetuneError where a rule needs what is not installed."""
    build_weighting(name, 2)


def task_distance(parameters: Mapping[str, Mapping[str, nn.Parameter]]) -> Tensor:
    """Sum of squared differences, 0-dim, between parameters {task: {name: parameter}} of each pair of tasks.

    Two parameters are compared if they have the same name and shape and at least one of them is trainable.
    """
    terms = [
        (first[name] - second[name]).square().sum()
        for first, second in combinations(parameters.values(), 2)
        for name in first
        if name in second
        and first[name].shape == second[name].shape
        and (first[name].requires_grad or second[name].requires_grad)
    ]
    return torch.stack(terms or [torch.zeros(())]).sum()


def _build_task_loss(name: str, output: OutputSpec, counts: Sequence[int], smoothing: float) -> LossFn:
    """Of what a head says and the targets of rows that have the label: their mean."""
    if name in REGRESSION_LOSSES:
        return REGRESSION_LOSSES[name]
    if output.kind == "ordinal":
        return partial(
            _ordinal_loss, build_loss("bce", class_counts=counts, label_smoothing=smoothing, multilabel=True)
        )
    multilabel = output.kind == "multilabel"
    return build_loss(name, class_counts=counts, label_smoothing=smoothing, multilabel=multilabel)


def _ordinal_loss(loss: LossFn, logits: Tensor, shares_BK: Tensor) -> Tensor:
    """Of levels: for each but the lowest whether it is reached (arXiv:cs/0107021 puts it so, as binary questions)."""
    reached = shares_BK.flip(1).cumsum(1).flip(1)[:, 1:]
    return loss(logits, reached.clamp(0, 1))


def _float_or_none(value: Any) -> float | None:
    found = float(value)
    return found if found == found else None

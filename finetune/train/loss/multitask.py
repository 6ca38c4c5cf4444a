"""The loss of a multi-task step: each task's loss over the rows that have its label, scaled, weighted and summed.

Axes in names: B clips, M tasks, P parts of their losses: one of each task, but those of detection have several.
"""

import math
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
from finetune.train.loss.dense import DetectionLoss, build_dense_loss
from finetune.train.loss.losses import build_loss
from finetune.train.loss.task_weighting import build_weighting

LOSS_EMA_DECAY = 0.9  # of the running mean that losses are divided by
MIN_DIVISOR = 1e-8
REGRESSION_LOSSES: dict[str, Callable[..., Tensor]] = {
    "smooth_l1": F.smooth_l1_loss,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
}
LossFn = Callable[[Tensor, Tensor], Tensor]


class StepContext(NamedTuple):
    """What a step needs besides its clips: `draw` seeds its random choices, `compare_gradients` records cosines."""

    draw: int
    compare_gradients: bool
    processes: int = 1
    is_dummy_batch: bool = False  # this process has no readable clip; its black clip does not count
    rank: int = 0  # of this process


class MultitaskObjective:
    """The weighted sum of the task losses, and the rule that weights them.

    A task's loss is the mean over all rows of the step, of all parts and processes, that have its label; other rows
    add no loss and no gradient. It is divided by the task's divisor (`normalize_losses`) and multiplied by the recipe's
    weight and by that of the rule. Rules that need gradients get those of the step's first part, at the earliest
    trainable activations that tasks share.
    """

    wants_embeddings = False

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
        self.losses: dict[str, LossFn] = {}
        for name, task in spec.tasks.items():
            if name in spec.dense_tasks:
                self.losses[name] = build_dense_loss(model.heads[name], task)
                continue
            kind, counts = task.loss or DEFAULT_LOSS.get(task.kind, loss), manifest.tasks[name].counts(rows)
            self.losses[name] = _build_task_loss(kind, spec.outputs[name], counts, smoothing)
        self.rule = build_weighting(spec.multitask.weighting, len(self.names))
        self.wants_losses_after = self.rule.wants_losses_after
        self.recipe_weights_M = torch.tensor([task.weight for task in spec.tasks.values()], dtype=torch.float64)
        self.divisors = torch.full((len(self.names),), torch.nan, dtype=torch.float64)
        if spec.multitask.normalize_losses == "none":
            self.divisors.fill_(1.0)
        if self.rule.weighs_gradients:
            self.sharing.gates = torch.ones(len(self.names), device=model.backbone.mean.device)
        self.part_weights = {
            name: loss.weights for name, loss in self.losses.items() if isinstance(loss, DetectionLoss)
        }
        self.num_parts = {name: len(self.part_weights.get(name, ("loss",))) for name in self.names}
        parts_M = torch.tensor([*self.num_parts.values()])
        self.task_of_part = torch.arange(len(self.names)).repeat_interleave(parts_M)
        self.epoch = TaskEpochSums(len(self.names), len(self.task_of_part))

    def begin(self, targets: Tensor, step: StepContext) -> None:
        """Start a step with the targets (B, width) of all clips of this process."""
        known_M = self._has_label(targets).sum(0).double().cpu()
        clips = 0 if step.is_dummy_batch else len(targets)
        totals = self.reduce(torch.cat([known_M, torch.tensor([clips], dtype=torch.float64)]))
        self.step, self.clips = step, totals[-1]
        # Clips per labelled clip of each task; NaN for a task that no row of the step has a label for.
        self.factors = torch.where(totals[:-1] > 0, totals[-1] / totals[:-1].clamp_min(1), torch.nan)
        self.step_parts_P = torch.zeros(len(self.task_of_part), dtype=torch.float64)
        self.weights: Tensor | None = None

    def set_embeddings(self, embeddings: Tensor, targets: Tensor) -> None:
        """The embeddings (B, D) are not used."""

    def loss(self, logits: Mapping[str, Tensor], targets: Tensor, share: float) -> Tensor:
        """The loss, 0-dim, of a part of the step, whose weight in the mean over all clips is `share` / processes."""
        parts = self._part_sums(logits, targets)
        sums = [parts_P.sum() for parts_P in parts]
        means = [loss_sum * self.factors[task].nan_to_num() / len(targets) for task, loss_sum in enumerate(sums)]
        sums_P, factors_P = torch.cat(parts).detach().double().cpu(), self.factors[self.task_of_part].nan_to_num()
        self.step_parts_P += sums_P * factors_P / len(targets) * share / self.step.processes
        if self.weights is None:
            self._weigh(means, self._first_losses(sums, targets), share)
        assert self.weights is not None
        weighted = (weight * mean for weight, mean in zip(self.weights.tolist(), means, strict=True))
        return sum(weighted, start=sums[0] * 0)

    def penalty(self) -> Tensor | float:
        """The penalties of soft sharing, between tasks and between towers, 0-dim."""
        settings, total = self.spec.multitask, torch.zeros(())
        if settings.soft_sharing_heads:
            total = total + settings.soft_sharing_heads * task_distance(self.model.task_parameters())
        if settings.soft_sharing_towers:
            total = total + settings.soft_sharing_towers * self.model.backbone.tower_distance()
        return total if settings.soft_sharing_heads or settings.soft_sharing_towers else 0.0

    def classified_rows(self, logits: Sequence[Mapping[str, Tensor]], targets: Tensor) -> tuple[Tensor, Tensor] | None:
        """Logits (N, K) and targets (N, K) of the N rows with the primary task's label; None if it has no classes."""
        name = self.model.primary
        if self.spec.outputs[name].kind not in CLASSIFICATION_KINDS:
            return None
        known_B = self._has_label(targets)[:, self.names.index(name)]
        of_task = torch.cat([part[name].float() for part in logits])
        return of_task[known_B], targets[known_B, self.layout.places[name]]

    def after_step(self, outputs_after: Sequence[tuple[Mapping[str, Tensor], Tensor]]) -> None:
        """Update the rule.

        `outputs_after` has, for each part of the step, logits {task: (B, K)} after the update of the weights and
        targets (B, width); it is empty unless `wants_losses_after`.
        """
        parts_P = self.reduce(self.step_parts_P)
        losses_M = self._known(self._per_task(parts_P))
        after_M = None
        if outputs_after:
            parts = [torch.cat(self._part_sums(logits, targets)).double().cpu() for logits, targets in outputs_after]
            sums_M = self._per_task(self.reduce(torch.stack(parts).sum(0)))
            after_M = self._known(sums_M * self.factors.nan_to_num() / self.clips) / self.divisors
        assert self.weights is not None
        self.rule.after_step(losses_M / self.divisors, after_M)
        weights_M = self.weights * self.gates if self.rule.weighs_gradients else self.weights
        self.epoch.add(losses_M, parts_P, weights_M)
        self._update_divisors(losses_M)

    def _update_divisors(self, losses_M: Tensor) -> None:
        known_M = losses_M.isfinite()
        if self.spec.multitask.normalize_losses == "running":
            running_M = LOSS_EMA_DECAY * self.divisors + (1 - LOSS_EMA_DECAY) * losses_M
            self.divisors = torch.where(known_M, running_M, self.divisors)
        first_seen_M = known_M & self.divisors.isnan()  # the step's first part had no row with the label
        self.divisors = torch.where(first_seen_M, losses_M, self.divisors).clamp_min(MIN_DIVISOR)

    def after_epoch(self) -> dict[str, Any]:
        """End an epoch: its task losses, weights and gradient cosines, as in metrics.jsonl."""
        losses = self.epoch.mean(self.epoch.losses, self.epoch.counts)
        self.rule.after_epoch(losses / self.divisors)
        weights = self.epoch.mean(self.epoch.weights, self.epoch.steps)
        record = {
            "tasks": {
                name: {"train_loss": _float_or_none(losses[number]), **self._parts_record(number)}
                for number, name in enumerate(self.names)
            },
            "weights": dict(zip(self.names, map(_float_or_none, weights), strict=True)),
            "cosines": {
                f"{self.names[one]} | {self.names[other]}": _float_or_none(self.epoch.cosines[one, other] / count)
                for one, other in combinations(range(len(self.names)), 2)
                if (count := self.epoch.compared[one, other]) > 0
            },
        }
        self.epoch = TaskEpochSums(len(self.names), len(self.task_of_part))
        return record

    def _parts_record(self, task: int) -> dict[str, Any]:
        """The epoch's mean of each part of a task's loss, before the recipe's weight; empty for a loss of one part."""
        weights = self.part_weights.get(self.names[task])
        if weights is None:
            return {}
        means_P = self.epoch.mean(self.epoch.parts[self.task_of_part == task], self.epoch.counts[task])
        pairs = zip(weights.items(), means_P, strict=True)
        return {"train_loss_parts": {part: _float_or_none(mean / weight) for (part, weight), mean in pairs}}

    def state(self) -> dict[str, Any]:
        return {"rule": self.rule.state(), "divisors": self.divisors, "epoch": self.epoch.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rule.restore(state["rule"])
        self.divisors = state["divisors"]
        self.epoch.restore(state["epoch"])

    def _has_label(self, targets: Tensor) -> Tensor:
        """Whether rows have a label, bool (B, M); a row mixed from two clips has one if both clips have it."""
        return targets[:, self.layout.width - len(self.names) :] > 0.999

    def _part_sums(self, logits: Mapping[str, Tensor], targets: Tensor) -> list[Tensor]:
        """The sum of each task's loss over the rows that have its label: its parts, (1,) or more."""
        known_BM, sums = self._has_label(targets), []
        for number, (name, place) in enumerate(self.layout.places.items()):
            known_B, output = known_BM[:, number], logits[name].float()
            if not known_B.any():
                sums.append((0.0 * output.sum()).expand(self.num_parts[name]))
                continue
            sums.append((self.losses[name](output[known_B], targets[known_B, place]) * known_B.sum()).view(-1))
        return sums

    def _per_task(self, parts_P: Tensor) -> Tensor:
        """The sum of each task's parts, (M,) from (P,)."""
        return torch.zeros(len(self.names), dtype=parts_P.dtype).index_add(0, self.task_of_part, parts_P)

    def _known(self, losses_M: Tensor) -> Tensor:
        """The losses (M,), NaN for tasks that no row of the step has a label for."""
        return torch.where(self.factors.isnan(), torch.nan, losses_M)

    def _first_losses(self, sums: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Mean losses (M,) of the step's first part over all processes; NaN for tasks without a label in it."""
        own_M = torch.stack([loss_sum.detach() for loss_sum in sums]).double().cpu()
        total_2M = self.reduce(torch.cat([own_M, self._has_label(targets).sum(0).double().cpu()]))
        sums_M, known_M = total_2M.chunk(2)
        return sums_M / torch.where(known_M > 0, known_M, torch.nan)

    def _weigh(self, means: Sequence[Tensor], losses_M: Tensor, share: float) -> None:
        """Set the weights of this step from the losses, and perhaps gradients, of its first part."""
        first_seen_M = self.divisors.isnan() & losses_M.isfinite()
        self.divisors = torch.where(first_seen_M, losses_M.clamp_min(MIN_DIVISOR), self.divisors)
        scale_M = (self.recipe_weights_M / self.divisors).nan_to_num()
        gramian_MM = None
        if self.rule.wants_gradients or self.step.compare_gradients:
            gramian_MM = self._gramian(means, scale_M * share / self.step.processes)
        if gramian_MM is not None:
            self.epoch.compare(gramian_MM)
        weights_M = torch.ones(len(self.names), dtype=torch.float64)
        if gramian_MM is not None or not self.rule.wants_gradients:
            weights_M = self.rule.weights(losses_M / self.divisors, gramian_MM, draw=self.step.draw)
        self.gates = torch.ones(len(self.names), dtype=torch.float64)
        if self.rule.weighs_gradients:
            self.gates = weights_M
            assert self.sharing.gates is not None
            self.sharing.gates.copy_(weights_M)
            self.weights = scale_M
        else:
            self.weights = scale_M * weights_M

    def _gramian(self, means: Sequence[Tensor], scale_M: Tensor) -> Tensor | None:
        """Inner products (M, M) of the tasks' gradients at shared activations; None if none of these is trainable."""
        shared = self.sharing.shared_activations()
        if not shared:
            return None
        if self.sharing.gates is not None:
            self.sharing.gates.fill_(1.0)
        rows = []
        for mean, factor in zip(means, scale_M.tolist(), strict=True):
            gradients = torch.autograd.grad(mean, shared, retain_graph=True, allow_unused=True, materialize_grads=True)
            rows.append(factor * torch.cat([gradient.float().flatten() for gradient in gradients]))
        gradients_MD = torch.stack(rows)
        return self.reduce((gradients_MD @ gradients_MD.T).double().cpu())


class TaskEpochSums:
    """Sums over the steps of the current epoch: losses, weights, and cosines of gradients, with their counts."""

    def __init__(self, tasks: int, parts: int) -> None:
        self.parts = torch.zeros(parts, dtype=torch.float64)
        self.losses = torch.zeros(tasks, dtype=torch.float64)
        self.counts = torch.zeros(tasks, dtype=torch.float64)
        self.weights = torch.zeros(tasks, dtype=torch.float64)
        self.steps = torch.zeros((), dtype=torch.float64)
        self.cosines = torch.zeros((tasks, tasks), dtype=torch.float64)
        self.compared = torch.zeros((tasks, tasks), dtype=torch.float64)

    def add(self, losses: Tensor, parts: Tensor, weights: Tensor) -> None:
        """Add a step's losses (M,), NaN where no row has the label, their parts (P,), and weights (M,)."""
        self.parts += parts
        self.losses += losses.nan_to_num()
        self.counts += losses.isfinite()
        self.weights += weights
        self.steps += 1

    def compare(self, gramian: Tensor) -> None:
        """Add the cosines of a Gramian (M, M)."""
        norms = gramian.diagonal().clamp_min(0).sqrt()
        products = norms[:, None] * norms
        defined = (products > 0) & gramian.isfinite()
        self.cosines += torch.where(defined, gramian / products, 0.0).clamp(-1, 1)
        self.compared += defined

    def mean(self, sums: Tensor, counts: Tensor) -> Tensor:
        """Elementwise sums / counts, of one shape; NaN where the count is 0."""
        return sums / torch.where(counts > 0, counts, torch.nan)

    def state(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in vars(self).items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.clone())


def check_weighting(name: str) -> None:
    """Raise RecipeError if a rule needs a package that is not installed."""
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
    """A task's mean loss of logits (B, K) and targets, for rows that have the label."""
    if name in REGRESSION_LOSSES:
        return REGRESSION_LOSSES[name]
    if output.kind == "ordinal":
        return partial(
            _ordinal_loss, build_loss("bce", class_counts=counts, label_smoothing=smoothing, multilabel=True)
        )
    multilabel = output.kind == "multilabel"
    return build_loss(name, class_counts=counts, label_smoothing=smoothing, multilabel=multilabel)


def _ordinal_loss(loss: LossFn, logits: Tensor, shares_BK: Tensor) -> Tensor:
    """The binary loss of logits (B, K - 1): is each level but the lowest reached? (arXiv:cs/0107021)."""
    reached = shares_BK.flip(1).cumsum(1).flip(1)[:, 1:]
    return loss(logits, reached.clamp(0, 1))


def _float_or_none(value: Any) -> float | None:
    number = float(value)
    return None if math.isnan(number) else number

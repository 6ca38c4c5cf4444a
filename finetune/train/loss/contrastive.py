"""The supervised contrastive loss: embeddings of one class close together, those of other classes far away."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.model.classifier import EMBEDDING
from finetune.train.loss.multitask import StepContext
from finetune.train.loss.single_task import SingleTaskObjective


def supervised_contrastive(embeddings_ND: Tensor, classes_N: Tensor, *, temperature: float) -> Tensor:
    """The mean loss, shape (), of embeddings (N, D) of any length, by their class numbers (N,).

    The loss of a clip is the mean, over the other clips of its class, of the negative log softmax of their cosine
    similarities / temperature among those to all other clips. A clip that is alone in its class has no loss of its own;
    without two clips of a class the loss is 0. Source: L_out of arXiv:2004.11362.
    """
    unit_ND = F.normalize(embeddings_ND, dim=1)
    itself_NN = torch.eye(len(unit_ND), dtype=torch.bool, device=unit_ND.device)
    positive_NN = (classes_N[:, None] == classes_N) & ~itself_NN
    positives_N = positive_NN.sum(1)
    if not positives_N.any():
        return embeddings_ND.sum() * 0.0
    similarities_NN = (unit_ND @ unit_ND.T / temperature).masked_fill(itself_NN, -torch.inf)
    log_shares_NN = similarities_NN.log_softmax(1).masked_fill(~positive_NN, 0.0)
    losses_N = -log_shares_NN.sum(1) / positives_N.clamp_min(1)
    return losses_N[positives_N > 0].mean()


class _StepEmbeddings(NamedTuple):
    """Embeddings (N, D) and class numbers (N,) of all clips of a step; this process's clips begin at `first`."""

    embeddings_ND: Tensor
    classes_N: Tensor
    first: int


@dataclass
class ContrastiveObjective(SingleTaskObjective):
    """The loss of the class probabilities, plus a contrastive loss of the embeddings of all clips of a step.

    The contrastive loss compares the clips of all parts and processes. Each part computes the loss of the whole step,
    with gradients for its own embeddings only, so the sum of these gradients is that of one large batch (GradCache,
    arXiv:2101.06983).
    """

    contrast: Callable[[Tensor, Tensor], Tensor]  # of embeddings (N, D) and class numbers (N,)
    reduce: Callable[[Tensor], Tensor]  # the sum over processes, on the CPU where there are several
    wants_embeddings = True

    def begin(self, targets: Tensor, step: StepContext) -> None:
        self.step = step
        self.gathered: _StepEmbeddings | None = None
        self.parts_done = 0  # clips of this process whose part has been computed

    def set_embeddings(self, embeddings: Tensor, targets: Tensor) -> None:
        """Share the embeddings (B, D) of this process's clips with all processes; targets are (B, K)."""
        step, classes_B = self.step, targets.argmax(1)
        own = 0 if step.is_dummy_batch else len(embeddings)
        counts = [own]
        if step.processes > 1:
            counts_P = torch.zeros(step.processes, dtype=torch.long)
            counts_P[step.rank] = own
            counts = self.reduce(counts_P).tolist()
        first = sum(counts[: step.rank])
        rows_ND = embeddings.new_zeros((sum(counts), embeddings.shape[1]), dtype=torch.float32)
        classes_N = classes_B.new_zeros(sum(counts))
        rows_ND[first : first + own], classes_N[first : first + own] = embeddings[:own].detach(), classes_B[:own]
        rows_ND, classes_N = (self.reduce(value).to(embeddings.device) for value in (rows_ND, classes_N))
        self.gathered = _StepEmbeddings(rows_ND, classes_N, first)

    def loss(self, logits: Mapping[str, Tensor], targets: Tensor, share: float) -> Tensor:
        embeddings_BD = logits[EMBEDDING].float()
        if self.gathered is None:  # this part is all that this process computes in this step
            self.set_embeddings(embeddings_BD, targets)
        assert self.gathered is not None
        classification = super().loss(logits, targets, share)
        if self.step.is_dummy_batch:
            return classification + embeddings_BD.sum() * 0.0
        all_ND, classes_N, first = self.gathered
        first += self.parts_done
        self.parts_done += len(embeddings_BD)
        after_ND = all_ND[first + len(embeddings_BD) :]
        value = self.contrast(torch.cat([all_ND[:first], embeddings_BD, after_ND]), classes_N)
        # The gradient of this part is a term of the step's, while train_step weights a part by its share of the clips.
        return classification + value.detach() + (value - value.detach()) * self.step.processes / share

"""The simple classifiers that `finetune probe` trains on frozen features."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional as F

from finetune.model.count_multiplications import count_multiplications
from finetune.model.temporal_pooling import build_pooling
from finetune.runtime.device import seed_device
from finetune.runtime.threads import fits_one_thread, limit_threads

INNER_FOLDS = 3
# Wider features are first reduced to this number of principal components, which loses nothing with fewer rows.
PCA_MIN_WIDTH, MOST_COMPONENTS = 512, 512
HEAD_STEPS, BATCH_SIZE = 200, 32  # of the attentive head
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray, float], np.ndarray]


@dataclass(frozen=True)
class ProbeClassifier:
    """A classifier, and the values of its one hyperparameter to choose from, the most regularized first.

    `predict` takes training features (N, T, D) and labels (N,), test features (M, T, D) and a value; it gives
    probabilities (M, K) of the K classes in the labels, in ascending order. T are frames, D features. Values are
    compared in `inner_folds` folds of the training rows.
    """

    settings: tuple[float, ...]
    predict: Predict
    inner_folds: int = INNER_FOLDS


def _logistic(train_ND: np.ndarray, labels: np.ndarray, test_MD: np.ndarray, inverse_strength: float) -> np.ndarray:
    steps = [StandardScaler()]
    if train_ND.shape[1] > PCA_MIN_WIDTH:
        steps.append(PCA(min(MOST_COMPONENTS, *train_ND.shape), random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the weakest regularization, which scores worse
        model = make_pipeline(*steps, LogisticRegression(C=inverse_strength, max_iter=300)).fit(train_ND, labels)
    return model.predict_proba(test_MD)


def _knn(train_ND: np.ndarray, labels: np.ndarray, test_MD: np.ndarray, neighbors: float) -> np.ndarray:
    model = KNeighborsClassifier(min(int(neighbors), len(train_ND)), metric="cosine").fit(train_ND, labels)
    return model.predict_proba(test_MD)


def _attentive(train_NTD: np.ndarray, labels: np.ndarray, test_MTD: np.ndarray, lr: float) -> np.ndarray:
    """Attention over the frames with their positions, and a linear layer; see `finetune.model.temporal_pooling`."""
    classes, targets = np.unique(labels, return_inverse=True)
    seed_device(0, torch.device("cpu"))
    pooling, width = build_pooling("attention", train_NTD.shape[2], num_frames=train_NTD.shape[1])
    head = nn.Sequential(pooling, nn.Dropout(0.5), nn.Linear(width, len(classes)))
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, HEAD_STEPS)
    features, truth = torch.from_numpy(train_NTD), torch.from_numpy(targets)
    order = np.random.default_rng(0)
    size = count_multiplications(head, lambda: head(features[:1]))
    with limit_threads(small=fits_one_thread(size * BATCH_SIZE)):
        for _ in range(HEAD_STEPS):
            rows = torch.from_numpy(order.choice(len(train_NTD), min(BATCH_SIZE, len(train_NTD)), replace=False))
            F.cross_entropy(head(features[rows]), truth[rows]).backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        with torch.inference_mode():
            return head.eval()(torch.from_numpy(test_MTD)).softmax(1).numpy()


def _on_vectors(predict: Predict, to_vectors: Callable[[np.ndarray], np.ndarray]) -> Predict:
    """`predict` for vectors (N, D'), on features (N, T, D) that `to_vectors` turns into them."""
    return lambda train, labels, test, setting: predict(to_vectors(train), labels, to_vectors(test), setting)


def _mean_of_frames(features_NTD: np.ndarray) -> np.ndarray:
    return features_NTD.mean(1)


def _concatenate_frames(features_NTD: np.ndarray) -> np.ndarray:
    return features_NTD.reshape(len(features_NTD), -1)


LOGISTIC_CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
PROBE_CLASSIFIERS = {
    "logistic, mean of frames": ProbeClassifier(LOGISTIC_CS, _on_vectors(_logistic, _mean_of_frames)),
    "logistic, frames in order": ProbeClassifier(LOGISTIC_CS, _on_vectors(_logistic, _concatenate_frames)),
    "nearest neighbours": ProbeClassifier((10, 5, 3, 1), _on_vectors(_knn, _mean_of_frames)),
    "attentive head": ProbeClassifier((1e-3, 3e-3), _attentive, inner_folds=1),
}

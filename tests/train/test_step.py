from types import SimpleNamespace

import pytest
import torch

import finetune as ft
from finetune.train.step import _clip_gradient


@pytest.mark.parametrize(("loss", "finite_processes"), [(float("nan"), 1), (1.0, 1), (1.0, 2)])
def test_processes_agree_whether_a_loss_is_finite(loss, finite_processes):
    """One that steps while another stops would wait for it forever."""
    reduced = []

    def reduce(value, reduction):
        reduced.append((float(value), reduction))
        return torch.tensor(float(finite_processes))

    accelerator = SimpleNamespace(scaler=None, device=torch.device("cpu"), reduce=reduce)
    setup = SimpleNamespace(recipe=SimpleNamespace(train=ft.Train()), accelerator=accelerator, share=(0, 2))
    assert _clip_gradient(SimpleNamespace(setup=setup), loss) == (finite_processes == 2)
    assert reduced == [(float(loss == loss), "sum")]

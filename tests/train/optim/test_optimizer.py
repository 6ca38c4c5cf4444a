import pytest
import torch

from finetune.errors import RecipeError
from finetune.train.optim.optimizer import build_optimizer, optimizer_names, transfer_optimizer_state


def steps(optimizer, *weights, count=30):
    for _ in range(count):
        loss = sum((weight**2).sum() for weight in weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def weight():
    return torch.nn.Parameter(torch.full((4, 4), 3.0))


@pytest.mark.parametrize("name", [*optimizer_names()])
def test_every_optimizer_that_is_named_lowers_a_loss(name):
    only = weight()
    steps(build_optimizer(name, [{"params": [only], "lr": 0.05, "weight_decay": 0.0}]), only)
    assert only.abs().max() < 3


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars", "lion"])
def test_the_field_s_own_are_there_and_keep_a_rate_for_each_group(name):
    slow, fast = weight(), weight()
    groups = [{"params": [slow], "lr": 1e-4, "weight_decay": 0.0}, {"params": [fast], "lr": 1e-2, "weight_decay": 0.0}]
    steps(build_optimizer(name, groups), slow, fast, count=3)
    assert (3 - fast).abs().max() > 10 * (3 - slow).abs().max() > 0


def test_an_optimizer_that_is_not_there_is_refused_with_what_is():
    with pytest.raises(RecipeError, match=r"no optimizer 'adamww' \(nearest: adamw.*there are .*lion"):
        build_optimizer("adamww", [{"params": [weight()], "lr": 0.1}])


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_what_goes_on_learning_keeps_its_averages_and_what_is_new_starts_afresh(name):
    old, new, gone = weight(), weight(), weight()
    first = build_optimizer(name, [{"params": [old, gone], "lr": 0.01}])
    steps(first, old, gone, count=5)
    known = {key: value.clone() for key, value in first.state[old].items() if torch.is_tensor(value)}
    second = build_optimizer(name, [{"params": [new], "lr": 0.1}, {"params": [old], "lr": 0.1}])
    assert transfer_optimizer_state(first, second) == 1
    assert known
    assert all(torch.equal(second.state[old][key], value) for key, value in known.items())
    assert new not in second.state
    assert gone not in second.state
    steps(second, old, new, count=1)


def test_another_optimizer_takes_nothing_over():
    only = weight()
    first = build_optimizer("sgd", [{"params": [only], "lr": 0.01}])
    steps(first, only, count=2)
    assert transfer_optimizer_state(first, build_optimizer("adamw", [{"params": [only], "lr": 0.01}])) == 0

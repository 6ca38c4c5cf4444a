import copy

import torch
from grey import TINY

import finetune as ft
from finetune.train.optim.precise_bn import compute_bn_statistics


def build(what="layer4", batch_norm="train"):
    torch.manual_seed(0)
    model = ft.build_model(TINY, ["a", "b"], weights="none", num_frames=2, size=32)
    ft.set_trainable(model, what, batch_norm=batch_norm)
    return model


def batches(count):
    return [torch.randint(0, 255, (4, 2, 3, 32, 32), dtype=torch.uint8) for _ in range(count)]


def test_statistics_become_the_mean_over_the_batches():
    model, clips = build(), batches(3)
    seen = {}
    name, norm = next((n, m) for n, m in model.named_modules() if "layer4" in n and isinstance(m, torch.nn.BatchNorm2d))
    watch = norm.register_forward_pre_hook(
        lambda module, args: seen.setdefault(name, []).append(args[0].mean((0, 2, 3)))
    )
    layers = compute_bn_statistics(model, clips, precision="fp32")
    watch.remove()
    torch.testing.assert_close(norm.running_mean, torch.stack(seen[name]).mean(0))
    assert layers == sum("layer4" in n and isinstance(m, torch.nn.BatchNorm2d) for n, m in model.named_modules())
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_frozen_stages_and_weights_are_left_alone():
    model = build()
    before = copy.deepcopy(model.state_dict())
    compute_bn_statistics(model, batches(2), precision="fp32")
    changed = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert changed
    assert changed <= set(model.stages["layer4"].buffers)


def test_without_statistics_that_move_no_batch_is_read():
    assert compute_bn_statistics(build(batch_norm="frozen"), iter(lambda: 1 / 0, None), precision="fp32") == 0

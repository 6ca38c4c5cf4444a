"""How much faster backbones run in channels-last layout on this machine: ratios of medians, both layouts in turn."""

import statistics
import time

import timm
import torch

BACKBONES = ("mobilenetv3_small_050", "mobilenetv2_100", "resnet18", "convnext_atto")
ROUNDS = 5


def seconds(net, pictures_NCHW, *, learns):
    """One forward pass, or one forward and backward pass, of a batch."""
    net.train(learns)
    started = time.perf_counter()
    with torch.set_grad_enabled(learns):
        features = net(pictures_NCHW)
    if learns:
        features.sum().backward()
    return time.perf_counter() - started


def main():
    print(f"{'backbone':24} inference  training   (contiguous / channels-last; above 1: channels-last is faster)")
    for name in BACKBONES:
        torch.manual_seed(0)
        pictures = torch.randn(32, 3, 96, 96)
        layouts = {
            layout: (timm.create_model(name, num_classes=0).to(memory_format=layout), pictures.to(memory_format=layout))
            for layout in (torch.contiguous_format, torch.channels_last)
        }
        ratios = []
        for learns in (False, True):
            taken = {layout: [] for layout in layouts}
            for _ in range(ROUNDS + 1):
                for layout, (net, batch) in layouts.items():
                    taken[layout].append(seconds(net, batch, learns=learns))
            medians = [statistics.median(times[1:]) for times in taken.values()]
            ratios.append(medians[0] / medians[1])
        print(f"{name:24} {ratios[0]:9.2f} {ratios[1]:9.2f}")


if __name__ == "__main__":
    main()

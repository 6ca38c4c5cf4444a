"""What it brings on a CPU to keep freed memory: forward and training passes with and without, in turn, as ratios."""

import statistics
import subprocess
import sys

CODE = """
import sys, time, timm, torch
from finetune.runtime.device import keep_freed_memory
assert sys.argv[1] == "given back" or keep_freed_memory()
net = timm.create_model("mobilenetv2_100", num_classes=0).to(memory_format=torch.channels_last)
pictures = torch.randn(64, 3, 224, 224).to(memory_format=torch.channels_last)
for learns in (False, True):
    net.train(learns)
    for _ in range(3):
        started = time.perf_counter()
        with torch.set_grad_enabled(learns):
            features = net(pictures)
        if learns:
            features.sum().backward()
        seconds = time.perf_counter() - started
    print(seconds)
"""
ROUNDS = 3


def main():
    taken = {"given back": [], "kept": []}
    for _ in range(ROUNDS):
        for way, times in taken.items():
            done = subprocess.run([sys.executable, "-c", CODE, way], check=True, capture_output=True, text=True)
            times.append([float(line) for line in done.stdout.split()])
    print("mobilenetv2_100, 64 pictures of 224 pixels: seconds with memory given back / with memory kept")
    for part, name in enumerate(("inference", "training")):
        back, kept = (statistics.median(times[part] for times in taken[way]) for way in taken)
        print(f"{name:10} {back / kept:.2f}")


if __name__ == "__main__":
    main()

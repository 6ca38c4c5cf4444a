"""Load on `finetune serve`: many callers at once, errors and waiting times, and memory before and after.

Each caller sends a video to /predict, asks for a page of /api/clips, and starts again. `--run` and `--clip` name a run
and a video; memory is the resident size of the server and of all processes that it started.
"""

import argparse
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

WARM_UP = 20  # requests before memory is measured


class Callers:
    """`count` threads that ask until `seconds` are over; the status and the seconds of each request by its path."""

    def __init__(self, url, clip, *, count, seconds):
        self.url, self.content, self.name = url, clip.read_bytes(), clip.name
        self.count, self.seconds = count, seconds
        self.statuses, self.waits = Counter(), {"/predict": [], "/api/clips": []}
        self.lock = threading.Lock()

    def run(self):
        self.end = time.monotonic() + self.seconds
        threads = [threading.Thread(target=self.ask) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def ask(self):
        with httpx.Client(base_url=self.url, timeout=300, verify=False) as client:
            while not self.waits["/api/clips"] or time.monotonic() < self.end:
                self.measure("/predict", lambda: client.post("/predict", files={"video": (self.name, self.content)}))
                self.measure("/api/clips", lambda: client.get("/api/clips", params={"limit": 50}))

    def measure(self, path, send):
        begin = time.monotonic()
        try:
            status = send().status_code
        except httpx.HTTPError as error:
            status = type(error).__name__
        with self.lock:
            self.statuses[path, status] += 1
            self.waits[path].append(time.monotonic() - begin)


def family(pid):
    """A process and all that it has started."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            pids += family(int(child))
    return pids


def resident_mb(pid):
    """The resident memory of a process and all that it has started; shared pages are divided (PSS)."""
    total = 0
    for member in family(pid):
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{member}/smaps_rollup").read_text(), re.MULTILINE)
        total += int(found[1]) / 1024
    return total


def report(callers, before, after):
    for (path, status), number in sorted(callers.statuses.items(), key=str):
        print(f"{path:12} {status}: {number}")
    for path, waits in callers.waits.items():
        middle, high = statistics.median(waits), statistics.quantiles(waits, n=20)[-1]
        rate = len(waits) / callers.seconds
        print(f"{path:12} {rate:.1f} a second; waited {middle:.2f} s (median), {high:.2f} s (95 %)")
    print(f"memory       {before:.0f} MB before, {after:.0f} MB after ({100 * (after / before - 1):+.1f} %)")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", required=True, help="run folder")
    parser.add_argument("--clip", type=Path, required=True, help="a video to predict")
    parser.add_argument("--callers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    args = parser.parse_args()
    command = [sys.executable, "-m", "finetune", "serve", args.run, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = re.search(r"http://\S+", server.stdout.readline())[0]
            Callers(url, args.clip, count=WARM_UP, seconds=1).run()
            before = resident_mb(server.pid)
            callers = Callers(url, args.clip, count=args.callers, seconds=args.seconds)
            callers.run()
            time.sleep(2)
            report(callers, before, resident_mb(server.pid))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()

"""A server in a process of its own, as `finetune serve` starts it, and a client for it."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx

from finetune.serve.worker import limit_memory

START_SECONDS = 120


class Served:
    """A running server: its process, its address, and a client whose addresses are relative to it."""

    def __init__(self, process, url):
        self.process, self.url = process, url
        self.client = httpx.Client(base_url=url, timeout=120)

    def stop(self, number=signal.SIGINT, *, seconds=20):
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def serving(run, *options):
    """`finetune serve RUN --port 0 …`, until the block ends."""
    command = [sys.executable, "-m", "finetune", "serve", str(run), "--port", "0", *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    line = process.stdout.readline()
    watchdog.cancel()
    found = re.search(r"http://\S+", line)
    if found is None:
        process.kill()
        raise AssertionError(line + process.stderr.read())
    served = Served(process, found[0])
    try:
        yield served
    finally:
        served.client.close()
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()


def post_video(client, path, *, name=None, **options):
    """POST /predict of one file."""
    with path.open("rb") as file:
        return client.post("/predict", files={"video": (name or path.name, file)}, params=options)


class OddWorker:
    """Instead of a model: what a request's name says. Runs in worker processes."""

    def begin(self):
        pass

    def __call__(self, request):
        wish = request.name.partition(" ")[0]
        if wish == "hang":
            time.sleep(3600)
        if wish == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if wish == "bug":
            raise ZeroDivisionError
        if wish == "memory":
            limit_memory(2**28)
            bytearray(2**30)
        if wish == "write":
            (request.folder / "large").write_bytes(bytes(1000))
        return {"error": f"{request.name}: cannot be read"} if wish == "bad" else {"name": request.name}

"""How a server starts and ends: its port, signals, and that nothing of it stays."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from serving import post_video, serving

from finetune.serve.workspace import PREFIX


def children(pid):
    """The processes that a process has started, and those that these have."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]
    return found


def alive(pids):
    return [pid for pid in pids if Path(f"/proc/{pid}").exists() and "Z" not in status(pid)]


def status(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes by /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_server_leaves_nothing(trained_run, clip_folder, tmp_path, monkeypatch, number):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving(trained_run) as served:
        clip = next((clip_folder / "test").rglob("*.mp4"))
        assert post_video(served.client, clip).status_code == 200
        workers = children(served.process.pid)
        assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 1 and workers
        code = served.stop(number)
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
        deadline = time.monotonic() + 60  # the fork server ends by itself
        while alive(workers) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive(workers)
        if number != signal.SIGKILL:
            assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(trained_run, finetune):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, error = finetune("serve", trained_run, "--port", port)
    assert code == 2 and f"port {port} is in use" in error and f"--port {port + 1}" in error


def test_an_address_that_is_not_of_this_machine_is_an_error(trained_run, finetune):
    code, _, error = finetune("serve", trained_run, "--host", "192.0.2.1", "--port", 0)
    assert code == 2 and "192.0.2.1" in error and "address" in error


def test_a_missing_extra_is_named(trained_run, finetune, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, error = finetune("serve", trained_run)
    assert code == 2 and 'pip install "finetune-video[serve]"' in error and "uvicorn" in error


def test_a_client_that_never_finishes_its_headers_is_cut_off(server, monkeypatch):
    from finetune.serve.server import HEADER_SECONDS

    assert HEADER_SECONDS <= 30
    address = ("127.0.0.1", server.client.base_url.port)
    with socket.create_connection(address) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        slow.settimeout(HEADER_SECONDS + 20)
        begin = time.monotonic()
        assert slow.recv(100) == b""  # closed by the server
        assert time.monotonic() - begin < HEADER_SECONDS + 15


def test_the_server_itself_imports_no_torch():
    code = "import sys, finetune.serve.server; sys.exit('torch' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0


def test_a_file_that_is_no_manifest_is_refused_at_the_start(trained_run, tmp_path):
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    command = [sys.executable, "-m", "finetune", "serve", trained_run, "--data", tmp_path / "notes.csv", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2 and "notes.csv" in done.stderr and "path" in done.stderr
    assert "Traceback" not in done.stderr

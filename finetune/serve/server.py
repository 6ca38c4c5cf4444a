"""Listen on a port and serve the app, until Ctrl-C or a signal; then no process and no file of it stays."""

import errno
import secrets
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from finetune.errors import RunError
from finetune.labelling.unlabelled import manifest_of
from finetune.run.read import Run
from finetune.serve.app import build_app
from finetune.serve.changes import Changes
from finetune.serve.clips import ClipTable
from finetune.serve.safety import Access, is_loopback
from finetune.serve.state import MAX_UPLOAD_BYTES, ServerState, ServeSettings
from finetune.video.worker_pool import start_fork_server

HEADER_SECONDS = 15  # for a client to send the first line and the headers of a request
MAX_HEADER_BYTES = 32_000
MAX_CONNECTIONS = 256
GRACE_SECONDS = 1  # for answers that are being sent when the server ends
BACKLOG = 256


@dataclass(frozen=True)
class ServeOptions:
    """`data` is a folder of clips to label, or the CSV whose labels are corrected."""

    host: str = "127.0.0.1"
    port: int = 8000
    data: Path | None = None
    data_root: Path | None = None
    open_browser: bool = False


def serve(run: Run, options: ServeOptions) -> None:
    """Serve a run until the program is told to stop; prints the address.

    Raises RunError where it cannot listen, and for a run that predicts objects or masks.
    """
    if dense := [task for task, output in run.outputs.items() if output.is_dense]:
        raise RunError(
            f"{run.folder}: predicts objects or pixels of frames ({', '.join(dense)}), which the page does not show; "
            "use `finetune predict RUN VIDEO --draw FILE`"
        )
    host, port = options.host, options.port
    listener = listen(host, port)
    with listener:
        start_fork_server()
        token = None if is_loopback(host) else secrets.token_urlsafe(24)
        server = _server_state(run, options, Access(host, token, MAX_UPLOAD_BYTES))
        address = url(listener, host, token)
        with _stopping_signals() as stop_on_signal:
            try:
                web = uvicorn.Server(uvicorn.Config(build_app(server), **_uvicorn_settings()))
                stop_on_signal(lambda: setattr(web, "should_exit", True))
                print(f"Serving {run.folder} on {address} (Ctrl-C ends it)", flush=True)
                _print_where_corrections_go(server, run, options.data)
                if options.open_browser:
                    webbrowser.open(address)
                web.run(sockets=[listener])
            finally:
                server.kill()


def _server_state(run: Run, options: ServeOptions, access: Access) -> ServerState:
    data, data_root = options.data, options.data_root
    new_clips = data if data is not None and data.is_dir() else None
    manifest = manifest_of(run) if data is None or new_clips is not None else data
    changes = None if manifest is None else Changes(run, manifest)
    if changes is not None:
        changes.journal.clips.columns()  # raises DataError for a file that is no manifest
    clips = ClipTable(run, data_root=data_root, changes=changes)
    settings = ServeSettings(access, data_root=data_root, new_clips=new_clips)
    return ServerState(run, settings, clips=clips, changes=changes)


def _print_where_corrections_go(server: ServerState, run: Run, data: Path | None) -> None:
    if (changes := server.changes) is None:
        return
    print(f"Corrections go to {changes.journal.file.path}", flush=True)
    trained_on = run.recipe.data.manifest or run.recipe.data.folder
    if changes.is_copy and changes.manifest != data and trained_on is not None:
        print(
            f"warning   {trained_on}, which the run was trained on, is not found: corrections are of the run's own "
            "copy of its rows. To correct the manifest itself, name it: --data FILE.csv",
            file=sys.stderr,
        )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises RunError for a port that is taken, or a host that is not this machine's."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise RunError(f"--host {host}: there is no such address ({error.strerror}); 0.0.0.0 is all of them") from None
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            message = f"port {port} is in use, perhaps by another `finetune serve`; give another: --port {port + 1}"
            raise RunError(f"{message}, or --port 0 for any that is free") from None
        if error.errno == errno.EACCES:
            raise RunError(f"port {port} is not allowed for this user; give one above 1023: --port 8000") from None
        raise RunError(f"--host {host} --port {port}: {error.strerror}; give an address of this machine") from None
    return listener


def url(listener: socket.socket, host: str, token: str | None) -> str:
    """The address to open; of all addresses (0.0.0.0) it is that of this machine's name."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}/" + (f"?token={token}" if token else "")


def _uvicorn_settings() -> dict:
    return {
        "http": ImpatientProtocol,
        "ws": "none",
        "loop": "asyncio",
        "lifespan": "on",
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "date_header": True,
        "proxy_headers": False,
        "limit_concurrency": MAX_CONNECTIONS,
        "timeout_keep_alive": 10,
        "timeout_graceful_shutdown": GRACE_SECONDS,
        "h11_max_incomplete_event_size": MAX_HEADER_BYTES,
        "backlog": BACKLOG,
    }


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1, but a client that begins a request and does not finish its headers is cut off."""

    def connection_made(self, transport: object) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.headers_timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        waits_for_headers = self.conn.their_state is h11.IDLE
        if not waits_for_headers:
            self.headers_timer.cancel()
        elif self.headers_timer.cancelled():
            self.headers_timer = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self.headers_timer.cancel()
        super().connection_lost(exc)


@contextmanager
def _stopping_signals() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does, so that what it cleans up is cleaned up."""
    stops: list[Callable[[], None]] = []

    def stop(number: int, _: FrameType | None) -> None:
        for begin_to_stop in stops:
            begin_to_stop()
        if not stops:
            sys.exit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield stops.append
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""A camera made by the tests: it streams grey frames as MPEG-TS over HTTP, at their own speed."""

import io
import socket
import time
from contextlib import suppress
from fractions import Fraction
from threading import Event, Thread

import av
from grey import grey_frames

HEADER = b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n"


def encode_stream(frames_THWC, *, fps, gop=12):
    """MPEG-TS in chunks of one frame each."""
    chunks, buffer = [], io.BytesIO()
    with av.open(buffer, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        options = {"preset": "ultrafast", "tune": "zerolatency", "g": str(gop), "threads": "1"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for number, frame_HWC in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            start = buffer.tell()
            container.mux(stream.encode(frame))
            chunks.append(buffer.getvalue()[start:])
    return chunks


class HttpCamera:
    """Serves a stream inside a `with` block, to one client after the other, each from now on and for so many seconds.

    Between them nothing listens for `pause` seconds.
    """

    def __init__(self, sessions, *, pause=0.3, fps=25):
        self.sessions, self.pause, self.fps = sessions, pause, fps
        self.chunks = encode_stream(grey_frames(10 * fps), fps=fps)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = free.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}/live.ts"

    def __enter__(self):
        self.is_ending, self.is_listening = Event(), Event()
        self.thread = Thread(target=self._run)
        self.thread.start()
        self.is_listening.wait()
        return self

    def __exit__(self, *_):
        self.is_ending.set()
        self.thread.join()

    def _run(self):
        for seconds in self.sessions:
            with socket.create_server(self.address) as server:
                server.settimeout(0.05)
                self.is_listening.set()
                while not self.is_ending.is_set():
                    with suppress(TimeoutError):
                        self._serve(server.accept()[0], seconds)
                        break
            self.is_ending.wait(self.pause)

    def _serve(self, client, seconds):
        start = time.monotonic()
        with client, suppress(OSError):
            client.recv(4096)
            client.sendall(HEADER)
            for number, chunk in enumerate(self.chunks[: int(seconds * self.fps)]):
                if self.is_ending.wait(max(0.0, start + number / self.fps - time.monotonic())):
                    return
                client.sendall(chunk)

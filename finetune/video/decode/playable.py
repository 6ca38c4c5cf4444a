"""Which video files a browser plays as they are."""

from pathlib import Path

from finetune.video.decode.container import open_video

# By what begins FFmpeg's name of a container: its type, endings, and codecs that browsers play in it.
PLAYABLE = {
    "mov": ("video/mp4", (".mp4", ".m4v", ".mov"), ("h264", "vp9", "av1", "libdav1d", "libaom-av1")),
    "matroska": ("video/webm", (".webm",), ("vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9")),
}
PLAYABLE_PIXELS = ("yuv420p", "yuvj420p")


def playable_type(path: Path) -> str | None:
    """The media type of a file that browsers play as it is; None for other files. Raises VideoError for no video."""
    if path.is_dir():
        return None
    with open_video(path) as (container, stream):
        kind, endings, codecs = PLAYABLE.get(container.format.name.split(",")[0], ("", (), ()))
        is_playable = path.suffix.lower() in endings and stream.codec_context.name in codecs
        return kind if is_playable and stream.codec_context.pix_fmt in PLAYABLE_PIXELS else None

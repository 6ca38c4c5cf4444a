"""All eight orientations, as ffmpeg and Pillow show them, wherever a file states them and however it is read."""

import re
import shutil
import subprocess

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from finetune.data.manifest import Manifest
from finetune.errors import VideoError
from finetune.prediction.overlay import Overlay, draw_video
from finetune.video.decode.probe import probe, scan
from finetune.video.decode.read import DECODERS, read_frames
from finetune.video.pack.read import Pack
from finetune.video.pack.write import pack

HEIGHT, WIDTH, FRAMES = 32, 48, 6
# (a, b, c, d): the pixel (x, y) is shown at (a x + c y, b x + d y).
MATRICES = {
    "as stored": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "turned by 180": (-1, 0, 0, -1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "turned by 90": (0, 1, -1, 0),
    "transposed the other way": (0, -1, -1, 0),
    "turned by 270": (0, -1, 1, 0),
}
HEVC = {"x265-params": "keyint=3:bframes=0:qp=2:pools=none:log-level=none"}
ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the ffmpeg program")


def pictures():
    """uint8 (T, H, W, 3): another colour in each quarter, and a bright column that moves."""
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, : HEIGHT // 2, : WIDTH // 2] = (200, 40, 40)
    frames[:, : HEIGHT // 2, WIDTH // 2 :] = (40, 200, 40)
    frames[:, HEIGHT // 2 :, : WIDTH // 2] = (40, 40, 200)
    for number in range(FRAMES):
        frames[number, :, 4 * number : 4 * number + 4] = 255
    return frames


def as_shown(frames_THWC, matrix):
    """The frames as displayed, pixel by pixel by the definition of the matrix."""
    a, b, c, d = matrix
    height, width = frames_THWC.shape[1:3]
    shown = np.zeros_like(frames_THWC if a else frames_THWC.swapaxes(1, 2))
    for y in range(height):
        for x in range(width):
            right, down = a * x + c * y - (a + c < 0), b * x + d * y - (b + d < 0)
            shown[:, down % shown.shape[1], right % shown.shape[2]] = frames_THWC[:, y, x]
    return shown


def make_video(path, matrix, *, encoder="libx264", options=None):
    """A file whose container states a display matrix."""
    a, b, c, d = matrix
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25, options=options or {"g": "3", "qp": "0"})
        stream.height, stream.width = HEIGHT, WIDTH
        stream.pix_fmt = {"libx264": "yuv444p", "mjpeg": "yuvj444p"}.get(encoder, "yuv420p")
        stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
        for frame_HWC in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def distance(found_TCHW, expected_THWC):
    """Mean absolute difference in levels; infinite where the sizes differ."""
    found_THWC = found_TCHW.transpose(0, 2, 3, 1).astype(int)
    if found_THWC.shape != expected_THWC.shape:
        return np.inf
    return np.abs(found_THWC - expected_THWC).mean()


def run_ffmpeg(*arguments):
    return subprocess.run(["ffmpeg", "-v", "error", "-nostdin", *map(str, arguments)], check=True, capture_output=True)


def shown_by_ffmpeg(path, size):
    height, width = size
    raw = run_ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    ("file", "encoder", "options"),
    [
        ("a.mp4", "libx264", None),
        ("a.mkv", "libx264", None),
        ("a.mov", "mjpeg", {"qmin": "1", "qmax": "1"}),
        ("a.mp4", "mpeg4", {"qmin": "1", "qmax": "1", "bf": "1"}),
        ("a.webm", "libvpx-vp9", {"crf": "4", "deadline": "realtime"}),
    ],
)
def test_a_display_matrix_is_applied_however_the_file_is_read(tmp_path, name, file, encoder, options):
    path = make_video(tmp_path / file, MATRICES[name], encoder=encoder, options=options)
    expected = as_shown(pictures(), MATRICES[name])
    height, width = expected.shape[1:3]
    info, layout = scan(path)
    assert (info.height, info.width) == (height, width)
    for known in (None, layout):
        for indices in (range(FRAMES), [4], [5, 1]):
            found, _ = read_frames(path, indices, layout=known)
            assert distance(found, expected[list(indices)]) < 12
        found, _ = read_frames(path, [1, 4], layout=known, size=(height // 2, width // 2))
        smaller = expected[[1, 4]].reshape(2, height // 2, 2, width // 2, 2, 3).mean((2, 4))
        assert distance(found, smaller) < 16


def test_packs_show_all_eight(tmp_path):
    paths = {}
    for name, matrix in MATRICES.items():
        (tmp_path / "clips" / name).mkdir(parents=True)
        paths[name] = make_video(tmp_path / "clips" / name / "1.mp4", matrix)
    for frames in (None, 3):
        folder = tmp_path / f"pack of {frames}"
        pack(Manifest.from_folder(tmp_path / "clips", val=0, test=0), folder, short_side=HEIGHT, frames=frames)
        for name, matrix in MATRICES.items():
            expected = as_shown(pictures(), matrix)[range(FRAMES) if frames is None else [1, 3, 5]]
            assert distance(Pack(folder).read_frames(paths[name], range(len(expected)))[0], expected) < 12


@pytest.mark.parametrize("name", MATRICES)
def test_drawings_and_other_decoders_show_the_same(tmp_path, name):
    path = make_video(tmp_path / "a.mp4", MATRICES[name])
    expected = as_shown(pictures(), MATRICES[name])
    draw_video(path, tmp_path / "drawn.mp4", Overlay())
    assert distance(read_frames(tmp_path / "drawn.mp4", range(FRAMES))[0], expected) < 20
    for decoder in DECODERS:
        try:
            for size in (None, expected.shape[1:3]):
                assert distance(read_frames(path, range(FRAMES), decoder=decoder, size=size)[0], expected) < 12
        except VideoError as error:
            assert decoder == "torchcodec" and ("cannot be used" in str(error) or "turned or mirrored" in str(error))


@ffmpeg
@pytest.mark.parametrize("name", MATRICES)
def test_a_display_matrix_is_applied_as_ffmpeg_applies_it(tmp_path, name):
    path = make_video(tmp_path / "a.mp4", MATRICES[name])
    found, _ = read_frames(path, range(FRAMES))
    assert distance(found, shown_by_ffmpeg(path, found.shape[2:])) < 2


@pytest.mark.parametrize(("degrees", "nearest"), [(0.4, 0), (30, 0), (-44, 0), (46, 90), (91, 90), (179, 180)])
def test_a_tilted_picture_is_brought_to_the_nearest_right_angle(tmp_path, degrees, nearest):
    c, s = (round(65536 * value) for value in (np.cos(np.radians(degrees)), np.sin(np.radians(degrees))))
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv444p"
        stream.set_display_matrix([c, s, 0, -s, c, 0, 0, 0, 1 << 30])
        for frame_HWC in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    wanted = {0: "as stored", 90: "turned by 90", 180: "turned by 180"}[nearest]
    assert distance(read_frames(path, [2])[0], as_shown(pictures()[2:3], MATRICES[wanted])) < 12


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("number", range(1, 9))
def test_exif_is_applied_as_pillow_applies_it(tmp_path, suffix, number):
    path, exif = tmp_path / f"a{suffix}", Image.Exif()
    exif[0x0112] = number
    options = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(pictures()[3]).save(path, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(path)))
    info, layout = scan(path)
    assert (info.num_frames, info.height, info.width) == (1, *expected.shape[:2])
    for decoder in ("pyav", "opencv"):
        for size in (None, expected.shape[:2]):
            found, _ = read_frames(path, [0], layout=layout, size=size, decoder=decoder)
            assert distance(found, expected[None]) < 3


def with_message(path, out, *, flip=None, rotate=None, codec="h264", to=None):
    """A copy in which an SEI message of the first picture states an orientation."""
    settings = [f"{key}={value}" for key, value in {"flip": flip, "rotate": rotate}.items() if value is not None]
    bsf = f"{codec}_metadata=display_orientation=insert:{':'.join(settings)}"
    run_ffmpeg("-y", "-i", path, "-c", "copy", *(to or []), "-bsf:v", bsf, out)
    return out


@ffmpeg
@pytest.mark.parametrize(
    ("message", "name"),
    [
        ({"flip": "horizontal"}, "mirrored"),
        ({"flip": "vertical"}, "upside down"),
        ({"flip": "horizontal+vertical"}, "turned by 180"),
        ({"rotate": 90}, "turned by 270"),
        ({"rotate": 270}, "turned by 90"),
        ({"rotate": 90, "flip": "horizontal"}, "transposed"),
        ({"rotate": 90, "flip": "vertical"}, "transposed the other way"),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".ts"])
def test_a_message_in_the_first_picture_holds_for_all_of_a_clip(tmp_path, message, name, suffix):
    plain = make_video(tmp_path / "plain.mp4", MATRICES["as stored"])
    path = with_message(plain, tmp_path / f"a{suffix}", **message)
    expected = as_shown(pictures(), MATRICES[name])
    info, layout = scan(path)
    assert (info.height, info.width) == expected.shape[1:3]
    first = shown_by_ffmpeg(path, expected.shape[1:3])[:1]
    assert distance(first.transpose(0, 3, 1, 2), expected[:1]) < 12
    for known in (None, layout):
        for indices in (range(FRAMES), [4], [5]):
            for decoder in ("pyav", "opencv"):
                found, _ = read_frames(path, indices, layout=known, decoder=decoder)
                assert distance(found, expected[list(indices)]) < 12


@ffmpeg
def test_a_message_in_hevc_holds_for_all_of_a_clip(tmp_path):
    plain = make_video(tmp_path / "plain.mp4", MATRICES["as stored"], encoder="libx265", options=HEVC)
    run_ffmpeg("-i", plain, "-c", "copy", "-bsf:v", "hevc_mp4toannexb", tmp_path / "plain.hevc")
    data = (tmp_path / "plain.hevc").read_bytes()
    # Type 47, 3 bytes: mirrored, by no angle, until it is stated anew. Source: ITU-T H.265, D.2.17
    message = bytes.fromhex("00000001 4e01 2f03 400018 80")
    picture = next(match.start() for match in re.finditer(rb"\x00\x00\x01[\x26-\x2b]", data))  # of type 19 to 21
    (tmp_path / "mirrored.hevc").write_bytes(data[:picture] + message + data[picture:])
    path = tmp_path / "mirrored.mp4"
    run_ffmpeg("-r", 25, "-i", tmp_path / "mirrored.hevc", "-c", "copy", path)
    expected = as_shown(pictures(), MATRICES["mirrored"])
    layout = scan(path)[1]
    for known in (None, layout):
        for indices in (range(FRAMES), [5]):
            assert distance(read_frames(path, indices, layout=known)[0], expected[list(indices)]) < 16


@ffmpeg
def test_a_clip_whose_orientation_changes_is_refused(tmp_path):
    """An SEI message that contradicts the container, and a recording that continues mirrored."""
    turned = make_video(tmp_path / "turned.mp4", MATRICES["turned by 90"])
    against = with_message(turned, tmp_path / "against.mp4", flip="horizontal")
    plain = make_video(tmp_path / "plain.mp4", MATRICES["as stored"], options={"g": "50", "qp": "0"})
    parts = [
        with_message(plain, tmp_path / f"{flip}.ts", flip=flip).read_bytes() for flip in ("horizontal", "vertical")
    ]
    (tmp_path / "joined.ts").write_bytes(b"".join(parts))
    run_ffmpeg("-i", tmp_path / "joined.ts", "-c", "copy", tmp_path / "joined.mkv")
    for path in (against, tmp_path / "joined.ts", tmp_path / "joined.mkv"):
        for read in (probe, lambda path: read_frames(path, range(2 * FRAMES if "joined" in path.name else FRAMES))):
            with pytest.raises(VideoError, match=rf"^{path}: its orientation changes"):
                read(path)

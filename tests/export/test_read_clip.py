"""The reader in an exported folder gives the frames that evaluation reads, bit for bit, without this package."""

import ast
from functools import partial
from itertools import product
from pathlib import Path

import av
import moving
import numpy as np
import pytest
from grey import make_clip
from PIL import Image

from finetune.export import read_clip as module
from finetune.export.read_clip import predictions, read_clip
from finetune.inference.predict_split import to_source_pixels
from finetune.recipe.schema import Clip
from finetune.recipe.tasks import OutputSpec
from finetune.video.dataset import read_views, view_placements
from finetune.video.decode.probe import probe

CLIPS = [
    Clip(num_frames=5, size=32),
    Clip(num_frames=5, size=32, sampling="uniform", fit="squash"),
    Clip(num_frames=4, size=40, sampling="dense", frame_stride=3),
    Clip(num_frames=4, size=40, sampling="dense", frame_stride=3, short_clips="loop"),
    Clip(num_frames=5, size=32, sampling="around", frame_stride=2),
    Clip(num_frames=6, size=24, sampling="fps", fps=12.5),
    Clip(num_frames=6, size=24, sampling="fps", fps=7.3, short_clips="loop"),
]


def info_of(clip, views):
    return {"clip": {**clip.model_dump(), "views": views}}


def expect_same_frames(path, clip, views):
    facts = probe(path)
    size = (facts.height, facts.width)
    expected = read_views(path, clip, views=views, num_frames=facts.num_frames, video_size=size).numpy()
    clip_read = read_clip(str(path), info_of(clip, views))
    np.testing.assert_array_equal(clip_read.frames, expected if views > 1 else expected[0])
    assert clip_read.video_size == size
    assert clip_read.frames.flags.c_contiguous
    assert clip_read.frames.dtype == np.uint8


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: f"{clip.sampling} {clip.fit} {clip.short_clips}")
@pytest.mark.parametrize(("frames", "views"), [*product((1, 2, 7, 31), (1, 3))])
def test_all_samplings_fits_and_numbers_of_views_give_the_frames_of_evaluation(clip, frames, views, tmp_path):
    expect_same_frames(make_clip(tmp_path / "a.mp4", frames), clip, views)


@pytest.mark.parametrize("kind", [*moving.KINDS])
@pytest.mark.parametrize("clip", [CLIPS[0], CLIPS[4]], ids=["segments", "fps"])
def test_files_of_many_codecs_and_containers_give_the_frames_of_evaluation(kind, clip, tmp_path):
    expect_same_frames(moving.write(tmp_path, kind, 23), clip, 1)


@pytest.mark.parametrize(
    ("a", "b", "c", "d"), [(-1, 0, 0, 1), (-1, 0, 0, -1), (0, 1, -1, 0), (0, -1, 1, 0), (0, 1, 1, 0)]
)
def test_frames_are_turned_and_mirrored_as_the_file_says(a, b, c, d, tmp_path):
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.set_display_matrix([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30])
        for frame_HWC in moving.texture(9):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")))
        container.mux(stream.encode(None))
    expect_same_frames(path, CLIPS[0], 2)


def test_a_picture_with_exif_data_is_refused(tmp_path):
    picture = Image.new("RGB", (64, 48))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "a.jpg", exif=exif)
    with pytest.raises(ValueError, match="has EXIF data"):
        read_clip(str(tmp_path / "a.jpg"), info_of(CLIPS[0], 1))


@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: f"{clip.sampling} {clip.fit} {clip.short_clips}")
@pytest.mark.parametrize("views", [1, 3])
def test_boxes_and_motion_come_out_in_pixels_of_the_video_as_the_run_gives_them(clip, views, tmp_path):
    path = moving.write(tmp_path, "h264", 11)
    info = info_of(clip, views) | {"tasks": {"box": {"kind": "box", "names": list("xywh")}}}
    info["tasks"]["track"] = {"kind": "motion", "names": ["dx", "dy"]}
    outputs = {"box": OutputSpec("box", tuple("xywh")), "track": OutputSpec("motion", ("dx", "dy"))}
    random = np.random.default_rng(0)
    values = {"box": random.random((views, 4)), "track": random.random((views, 2))}
    placements = partial(view_placements, path, clip, views=views, num_frames=11, video_size=(48, 64))
    expected = to_source_pixels(outputs, values, placements)
    clip_read = read_clip(str(path), info)
    given = predictions(info, {task: of_views[None] for task, of_views in values.items()}, clip_read)
    for task, numbers in expected.items():
        assert list(given[task].values()) == pytest.approx(numbers.tolist())


def test_only_numpy_av_and_the_standard_library_are_imported():
    tree = ast.parse(Path(module.__file__).read_text())
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
    }
    assert roots == {"struct", "bisect", "collections", "typing", "av", "numpy"}


def test_a_short_video_is_refused_where_the_recipe_refuses_it(tmp_path):
    path = make_clip(tmp_path / "a.mp4", 4)
    with pytest.raises(ValueError, match="has 4 frames, and a clip spans 5"):
        read_clip(str(path), info_of(Clip(num_frames=5, size=32, short_clips="error"), 1))

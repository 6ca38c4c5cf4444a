"""Small files of objects as each tool writes them: two classes in frames of rec1, a video of 64 × 48 pixels.

In each of them frame 2 has a car with the box 8, 12, 16, 6 (left, top, width, height), and a person with 40, 20, 8, 16.
"""

import json

import cv2
from grey import grey_frames

from finetune.video.encode import write_video

COCO = {
    "categories": [{"id": 90, "name": "person"}, {"id": 3, "name": "car"}],
    "videos": [{"id": 5, "name": "rec1"}],
    "images": [
        {"id": 700, "file_name": "a/000004.jpg", "video_id": 5, "frame_index": 4, "width": 64, "height": 48},
        {"id": 12, "file_name": "a/000002.jpg", "video_id": 5, "frame_index": 2, "width": 64, "height": 48},
    ],
    "annotations": [
        {"id": 9, "image_id": 12, "category_id": 3, "bbox": [8, 12, 16, 6], "track_id": 1, "iscrowd": 0},
        {"id": 2, "image_id": 12, "category_id": 90, "bbox": [40, 20, 8, 16], "track_id": 2},
    ],
}

CVAT_VIDEO = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task>
    <id>5</id><name>streets</name><size>8</size><mode>interpolation</mode><start_frame>0</start_frame>
    <stop_frame>7</stop_frame><frame_filter></frame_filter>
    <original_size><width>64</width><height>48</height></original_size><source>rec1.mp4</source>
  </task></meta>
  <track id="0" label="car" source="manual">
    <box frame="0" outside="0" occluded="0" keyframe="1" xtl="4.0" ytl="12.0" xbr="20.0" ybr="18.0" z_order="0"></box>
    <box frame="4" outside="0" occluded="1" keyframe="1" xtl="12.0" ytl="12.0" xbr="28.0" ybr="18.0" z_order="0"></box>
    <box frame="5" outside="1" occluded="0" keyframe="1" xtl="12.0" ytl="12.0" xbr="28.0" ybr="18.0" z_order="0"></box>
  </track>
  <track id="7" label="person" source="manual">
    <box frame="2" outside="0" occluded="0" keyframe="1" xtl="40.0" ytl="20.0" xbr="48.0" ybr="36.0"></box>
    <box frame="3" outside="1" occluded="0" keyframe="1" xtl="40.0" ytl="20.0" xbr="48.0" ybr="36.0"></box>
  </track>
</annotations>
"""

CVAT_IMAGES = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>6</id><name>streets</name><mode>annotation</mode><source>rec1.mp4</source></task></meta>
  <image id="2" name="frame_000002" width="64" height="48">
    <box label="car" occluded="0" xtl="8.0" ytl="12.0" xbr="24.0" ybr="18.0" z_order="0"></box>
    <polygon label="person" occluded="0" points="40.0,20.0;48.0,20.0;44.0,36.0" z_order="0"></polygon>
  </image>
  <image id="4" name="frame_000004" width="64" height="48"></image>
</annotations>
"""

MOT = "3,1,8,12,16,6,1,3,1\n3,2,40,20,8,16,1,1,0.5\n4,1,9,12,16,6,1,3,1\n5,3,1,1,5,5,0,8,1\n5,4,1,1,5,5,0,5,1\n"
SEQINFO = "[Sequence]\nname=rec1\nimDir=img1\nframeRate=25\nseqLength=8\nimWidth=64\nimHeight=48\nimExt=.jpg\n"

VOC = """<annotation>
  <folder>rec1</folder><filename>img_00003.png</filename>
  <size><width>64</width><height>48</height><depth>3</depth></size>
  <object><name>car</name><difficult>0</difficult>
    <bndbox><xmin>8</xmin><ymin>12</ymin><xmax>24</xmax><ymax>18</ymax></bndbox></object>
  <object><name>person</name><difficult>1</difficult>
    <bndbox><xmin>40</xmin><ymin>20</ymin><xmax>48</xmax><ymax>36</ymax></bndbox></object>
</annotation>
"""

YOLO_YAML = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: person\n  1: car\n"
YOLO_LABELS = {"train/rec1_2": "1 0.25 0.3125 0.25 0.125\n0 0.6875 0.5833333 0.125 0.3333333\n", "train/rec1_4": ""}


def _keyframe(frame, left, *, enabled=True):
    """A box of 16 × 6 pixels at 12 from the top, in percent of 64 × 48."""
    box = {"x": left / 0.64, "y": 25, "width": 25, "height": 12.5}
    return {"frame": frame, "enabled": enabled, "rotation": 0, "time": (frame - 1) / 25, **box}


LABEL_STUDIO_VIDEO = [
    {
        "id": 7,
        "data": {"video": "/data/upload/3/1a2b3c4d-rec1.mp4"},
        "annotations": [
            {
                "result": [
                    {
                        "id": "Fa3",
                        "type": "videorectangle",
                        "from_name": "box",
                        "to_name": "video",
                        "value": {
                            "framesCount": 8,
                            "duration": 0.32,
                            "labels": ["car"],
                            "sequence": [_keyframe(1, 4), _keyframe(5, 12, enabled=False)],
                        },
                    },
                    {
                        "id": "Zb1",
                        "type": "videorectangle",
                        "from_name": "box",
                        "to_name": "video",
                        "value": {
                            "framesCount": 8,
                            "duration": 0.32,
                            "labels": ["person"],
                            "sequence": [
                                {"frame": 3, "enabled": False, "rotation": 0, "time": 0.08, "x": 62.5, "y": 41.6666667}
                                | {"width": 12.5, "height": 33.3333333}
                            ],
                        },
                    },
                ]
            }
        ],
    }
]


def _rectangle(label, x, y, width, height):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": [label]}
    return {"type": "rectanglelabels", "original_width": 64, "original_height": 48, "value": value}


LABEL_STUDIO_IMAGES = [
    {
        "id": 1,
        "data": {"image": "/data/upload/1/0a1b2c3d-rec1_frame_000002.jpg"},
        "annotations": [
            {
                "result": [
                    _rectangle("car", 12.5, 25, 25, 12.5),
                    _rectangle("person", 62.5, 41.6666667, 12.5, 33.3333333),
                ]
            }
        ],
    },
    {"id": 2, "data": {"image": "/data/upload/1/0a1b2c3e-rec1_frame_000004.jpg"}, "annotations": [{"result": []}]},
    {"id": 3, "data": {"image": "/data/upload/1/0a1b2c3f-rec1_frame_000005.jpg"}, "annotations": []},
]

# (name of the file, content, format that it is recognised as)
SAMPLES = {
    "coco": ("objects.json", json.dumps(COCO), "coco"),
    "cvat video": ("annotations.xml", CVAT_VIDEO, "cvat"),
    "cvat images": ("annotations.xml", CVAT_IMAGES, "cvat"),
    "mot": ("gt.txt", MOT, "mot"),
    "voc": ("img_00003.xml", VOC, "voc"),
    "yolo": ("data.yaml", YOLO_YAML, "yolo"),
    "label studio video": ("tasks.json", json.dumps(LABEL_STUDIO_VIDEO), "label-studio"),
    "label studio images": ("tasks.json", json.dumps(LABEL_STUDIO_IMAGES), "label-studio"),
}


def write_sample(sample, folder):
    """The file of a sample in a folder, with the files that belong to it."""
    name, content, kind = SAMPLES[sample]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content, encoding="utf-8")
    if kind == "mot":
        (folder / "seqinfo.ini").write_text(SEQINFO)
    if kind == "yolo":
        for label_name, text in YOLO_LABELS.items():
            path = folder / "labels" / f"{label_name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (folder / "labels/val").mkdir(exist_ok=True)
    return folder / name


def make_video(path, frames=8, *, width=64, height=48):
    """A grey video at 25 frames per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, grey_frames(frames, size=max(width, height))[:, :height, :width], fps=25)
    return path


def make_frames(folder, frames=8):
    """A folder of numbered images of 64 × 48 pixels, from img_00001.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame_HWC in enumerate(grey_frames(frames, size=64)[:, :48], 1):
        assert cv2.imwrite(str(folder / f"img_{number:05}.png"), frame_HWC)
    return folder

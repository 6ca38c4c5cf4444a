"""Small annotation files as each tool writes them: two events of rec1 (walk 1 to 2.5 s, sit 3 to 4 s), one of rec2."""

import json

BORIS = {
    "time_format": "hh:mm:ss",
    "project_format_version": "7.0",
    "project_name": "walks",
    "subjects_conf": {"0": {"key": "a", "name": "Ann", "description": "", "independent variables": {}}},
    "behaviors_conf": {
        "0": {"type": "State event", "key": "w", "code": "walk", "modifiers": "", "excluded": ""},
        "1": {"type": "State event with coding map", "key": "s", "code": "sit", "modifiers": "", "excluded": ""},
        "2": {"type": "Point event", "key": "b", "code": "blink", "modifiers": "", "excluded": ""},
    },
    "observations": {
        "first": {
            "file": {"1": ["C:\\Users\\ann\\Videos\\rec1.mp4"], "2": ["side.mp4"]},
            "type": "MEDIA",
            "time offset": 10.0,
            "events": [
                [11.0, "Ann", "walk", "", ""],
                [12.5, "Ann", "walk", "", "", 62],
                [13.0, "Ann", "sit", "", "", "NA"],
                [14.0, "Ann", "sit", "", ""],
            ],
            "media_info": {"length": {"C:\\Users\\ann\\Videos\\rec1.mp4": 20.0}, "fps": {}},
        },
        "second": {
            "file": {"1": ["rec2.mp4"], "2": []},
            "type": "MEDIA",
            "time offset": 0.0,
            "events": [[0.5, "", "blink", "", ""]],
            "media_info": {"length": {"rec2.mp4": 20.0}},
        },
        "at the zoo": {"file": [], "type": "LIVE", "time offset": 0.0, "events": [[1.0, "", "blink", "", ""]]},
    },
}

BORIS_TABULAR = (
    "Observation id\tObservation date\tObservation type\tSource\tTime offset (s)\tMedia duration (s)\tSubject\t"
    "Behavior\tBehavioral category\tModifier #1\tBehavior type\tTime\tMedia file name\tImage index\tComment\n"
    + "".join(
        f"first\t2026-01-02 10:00:00\tMedia file(s)\tplayer #1:{file}\t0.0\t20.000\t{subject}\t{behavior}\t\t\t{kind}\t"
        f"{time}\t{file}\tNA\t\n"
        for file, subject, behavior, kind, time in (
            ("rec1.mp4", "Ann", "walk", "START", "1.000"),
            ("rec1.mp4", "Ann", "walk", "STOP", "2.500"),
            ("rec1.mp4", "Ann", "sit", "START", "3.000"),
            ("rec1.mp4", "Ann", "sit", "STOP", "4.000"),
        )
    )
)

BORIS_OLD_TABULAR = (
    "Observation id,first,,,,,,,\n,,,,,,,,\nMedia file(s),,,,,,,,\nPlayer #1,rec1.mp4,,,,,,,\n"
    "Time offset (s),10.0,,,,,,,\n\n"
    "Time,Media file path,Total length,FPS,Subject,Behavior,Behavioral category,Comment,Status\n"
    "11.000,rec1.mp4,20.000,25.0,Ann,walk,,,START\n12.500,rec1.mp4,20.000,25.0,Ann,walk,,,STOP\n"
    "13.000,rec1.mp4,20.000,25.0,Ann,sit,,,START\n14.000,rec1.mp4,20.000,25.0,Ann,sit,,,STOP\n"
)

BORIS_AGGREGATED = (
    "Observation id,Source,Time offset (s),Media duration (s),Subject,Behavior,Behavior type,Start (s),Stop (s),"
    "Duration (s),Media file name\n"
    "first,player #1:rec1.mp4,0,20,Ann,walk,STATE,1.000,2.500,1.500,rec1.mp4\n"
    "first,player #1:rec1.mp4,0,20,Ann,sit,STATE,3.000,4.000,1.000,rec1.mp4\n"
    "second,player #1:rec2.mp4,0,20,No focal subject,blink,POINT,0.500,0.500,NA,rec2.mp4\n"
)

ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-02T10:00:00+01:00" FORMAT="3.0" VERSION="3.0"
    xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
    xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/Users/ann/rec1.wav" MIME_TYPE="audio/x-wav"/>
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/Users/ann/rec1.mp4" MIME_TYPE="video/mp4" TIME_ORIGIN="500"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="500"/>
    <TIME_SLOT TIME_SLOT_ID="ts5"/>
    <TIME_SLOT TIME_SLOT_ID="ts6"/>
    <TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="2000"/>
    <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="2500"/>
    <TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="3500"/>
  </TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="default-lt" PARTICIPANT="Ann" TIER_ID="acts">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>walk</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
      <ANNOTATION_VALUE>sit</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="steps" PARENT_REF="acts" TIER_ID="steps">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts5">
      <ANNOTATION_VALUE>left</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a4" TIME_SLOT_REF1="ts5" TIME_SLOT_REF2="ts6">
      <ANNOTATION_VALUE>right</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a5" TIME_SLOT_REF1="ts6" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>left</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="words" PARENT_REF="acts" TIER_ID="words">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a6" ANNOTATION_REF="a2">
      <ANNOTATION_VALUE>down</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a8" ANNOTATION_REF="a1" PREVIOUS_ANNOTATION="a7">
      <ANNOTATION_VALUE>on</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a7" ANNOTATION_REF="a1">
      <ANNOTATION_VALUE>go</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
  <LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default-lt" TIME_ALIGNABLE="true"/>
</ANNOTATION_DOCUMENT>
"""

LABEL_STUDIO = [
    {
        "id": 7,
        "data": {"video": "/data/upload/3/1a2b3c4d-rec1.mp4", "fps": 10},
        "annotations": [
            {
                "id": 1,
                "was_cancelled": False,
                "result": [
                    {
                        "id": "r1",
                        "type": "timelinelabels",
                        "from_name": "acts",
                        "to_name": "video",
                        "value": {"ranges": [{"start": 11, "end": 25}], "timelinelabels": ["walk"]},
                    },
                    {
                        "id": "r2",
                        "type": "timelinelabels",
                        "from_name": "acts",
                        "to_name": "video",
                        "value": {"ranges": [{"start": 31, "end": 40}], "timelinelabels": ["sit"]},
                    },
                    {
                        "id": "r3",
                        "type": "videorectangle",
                        "from_name": "box",
                        "to_name": "video",
                        "value": {"framesCount": 200, "duration": 20.0, "labels": ["dog"], "sequence": [{"frame": 1}]},
                    },
                ],
            }
        ],
        "predictions": [],
    },
    {
        "id": 8,
        "data": {"video": "/data/local-files/?d=walks%2Frec2.mp4"},
        "annotations": [
            {"result": [{"type": "choices", "from_name": "kind", "to_name": "video", "value": {"choices": ["empty"]}}]}
        ],
    },
]

LABEL_STUDIO_MIN = [
    {
        "id": 7,
        "video": "/data/upload/3/1a2b3c4d-rec1.mp4",
        "fps": 10,
        "acts": [
            {"ranges": [{"start": 11, "end": 25}], "timelinelabels": ["walk"]},
            {"ranges": [{"start": 31, "end": 40}], "timelinelabels": ["sit"]},
        ],
        "annotator": 1,
        "annotation_id": 1,
    },
    {"id": 8, "video": "rec2.mp4", "choice": "empty", "annotator": 1, "annotation_id": 2},
]

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task>
    <id>5</id><name>walks</name><size>100</size><mode>interpolation</mode><start_frame>0</start_frame>
    <stop_frame>99</stop_frame><frame_filter></frame_filter><source>rec1.mp4</source>
  </task></meta>
  <track id="0" label="walk" source="manual">
    <box frame="25" keyframe="1" outside="0" xtl="1.0" ytl="1.0" xbr="9.0" ybr="9.0">
      <attribute name="speed">slow</attribute></box>
    <box frame="50" keyframe="1" outside="0" xtl="2.0" ytl="1.0" xbr="9.0" ybr="9.0">
      <attribute name="speed">fast</attribute></box>
    <box frame="62" keyframe="1" outside="1" xtl="2.0" ytl="1.0" xbr="9.0" ybr="9.0">
      <attribute name="speed">fast</attribute></box>
  </track>
  <track id="1" label="sit" source="manual">
    <polygon frame="75" keyframe="1" outside="0" points="1,1;2,2;3,1"/>
    <polygon frame="80" keyframe="1" outside="0" points="1,1;2,2;3,1"/>
  </track>
</annotations>
"""

VIA = {
    "project": {
        "pid": "__VIA_PROJECT_ID__",
        "pname": "walks",
        "creator": "VGG Image Annotator",
        "vid_list": ["1", "2"],
    },
    "config": {},
    "attribute": {
        "1": {"aname": "act", "anchor_id": "FILE1_Z2_XY0", "type": 4, "options": {"0": "walk", "1": "sit"}},
        "2": {"aname": "note", "anchor_id": "FILE1_Z2_XY0", "type": 1, "options": {}},
    },
    "file": {
        "1": {"fid": "1", "fname": "rec1.mp4", "type": 4, "loc": 1, "src": ""},
        "2": {"fid": "2", "fname": "rec2.mp4", "type": 4, "loc": 1, "src": ""},
    },
    "view": {"1": {"fid_list": ["1"]}, "2": {"fid_list": ["2"]}},
    "metadata": {
        "1_a": {"vid": "1", "flg": 0, "z": [1.0, 2.5], "xy": [], "av": {"1": "0", "2": "a, b"}},
        "1_b": {"vid": "1", "flg": 0, "z": [3.0, 4.0], "xy": [], "av": {"1": "1"}},
        "1_c": {"vid": "1", "flg": 0, "z": [3.0], "xy": [2, 1, 1, 5, 5], "av": {"1": "1"}},
        "2_a": {"vid": "2", "flg": 0, "z": [0.5], "xy": [], "av": {"1": "0,1"}},
    },
}

ACTIVITYNET = {
    "version": "VERSION 1.3",
    "taxonomy": [],
    "database": {
        "rec1": {
            "duration": 20.0,
            "subset": "training",
            "annotations": [{"segment": [1.0, 2.5], "label": "walk"}, {"segment": [3.0, 4.0], "label": "sit"}],
        },
        "rec2": {"duration": 20.0, "subset": "validation", "annotations": []},
    },
}

AUDACITY = "1.000000\t2.500000\twalk\n\\\t0.0\t900.5\n3.000000\t4.000000\tsit\n"
VTT = """WEBVTT - walks

STYLE
::cue { color: red }

NOTE 00:00.000 --> 00:01.000 is no cue

00:01.000 --> 00:02.500 align:start
<v Ann>walk</v>

second
00:00:03.000 --> 00:00:04.000
sit
"""
SRT = "1\n00:00:01,000 --> 00:00:02,500\n<i>walk</i>\n\n2\n00:00:03,000 --> 00:00:04,000\nsit\n"
CSV = "path,label,start,end\nrec1.mp4,walk,1,2.5\nrec1.mp4,sit,0:03,00:00:04.000\n"

# (name of the file, content, format that it is recognised as)
SAMPLES = {
    "boris project": ("rec1.boris", json.dumps(BORIS), "boris"),
    "boris tabular": ("rec1.tsv", BORIS_TABULAR, "boris"),
    "boris old tabular": ("rec1.csv", BORIS_OLD_TABULAR, "boris"),
    "boris aggregated": ("rec1.csv", BORIS_AGGREGATED, "boris"),
    "elan": ("rec1.eaf", ELAN, "elan"),
    "label studio": ("rec1.json", json.dumps(LABEL_STUDIO), "label-studio"),
    "label studio min": ("rec1.json", json.dumps(LABEL_STUDIO_MIN), "label-studio"),
    "cvat": ("rec1.xml", CVAT, "cvat"),
    "via": ("rec1.json", json.dumps(VIA), "via"),
    "activitynet": ("rec1.json", json.dumps(ACTIVITYNET), "activitynet"),
    "audacity": ("rec1.txt", AUDACITY, "audacity"),
    "webvtt": ("rec1.vtt", VTT, "vtt"),
    "srt": ("rec1.srt", SRT, "vtt"),
    "csv": ("rec1.csv", CSV, "csv"),
}

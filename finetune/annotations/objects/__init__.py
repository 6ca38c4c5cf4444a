"""Annotation files of objects in frames of videos: COCO, YOLO, CVAT, MOTChallenge, Pascal VOC and Label Studio.

The ways in are `import_objects.import_objects` and `export_objects.write_objects`. Each tool has a module of its own;
`object_formats.py` lists them and recognises a file by its content.
"""

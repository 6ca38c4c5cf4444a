"""Annotation files of other tools: read into rows of a manifest, and written from events.

The two ways in are `import_files.import_annotations` and `export_files.export_events`. Each tool has a module of its
own; `formats.py` lists them and recognises a file by its content.
"""

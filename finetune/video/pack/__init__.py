"""Packs: videos stored as JPEG frames in a few large files, read through memory maps."""

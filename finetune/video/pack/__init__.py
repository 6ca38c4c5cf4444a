"""Packs: videos stored as JPEG frames that are read by memory map."""

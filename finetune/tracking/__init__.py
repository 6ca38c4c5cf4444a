"""Tracks: detections of the frames of one recording joined over time."""

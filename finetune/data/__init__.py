"""Labelled videos: manifests, labels, groups and splits."""

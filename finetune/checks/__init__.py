"""Checks of labelled videos: everything that is wrong, found at once, before training."""

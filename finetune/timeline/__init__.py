"""Timelines of recordings: probabilities of sliding windows, and the events that follow from them.

events.py        events from probabilities, by thresholds, smoothing and lengths
fit_events.py    those settings, fitted to the annotated recordings of `val`
"""

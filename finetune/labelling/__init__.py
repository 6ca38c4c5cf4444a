"""Correct labels and choose what to label next: a journal of changes, suspects, an order of new clips."""

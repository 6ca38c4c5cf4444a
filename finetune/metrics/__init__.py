"""Metrics of each kind of task, and their confidence intervals."""

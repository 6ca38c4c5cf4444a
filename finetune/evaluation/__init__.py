"""Evaluate a trained run on a split."""

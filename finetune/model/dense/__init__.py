"""Outputs for positions of the picture: a feature pyramid, detection heads, and masks."""

"""Decode the frames that are asked for, and no others."""

"""Vectors of unit length in a folder, and the nearest of them."""

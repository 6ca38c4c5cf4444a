"""Vectors of unit length in a folder, and the nearest of them.

`entry.py` says what a vector is of, `index.py` reads a folder, `writer.py` writes it, `nearest.py` searches exactly,
`approximate.py` by a graph of near vectors.
"""

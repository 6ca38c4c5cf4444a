"""Activations of frozen stages, computed once for each clip and cached on disk.

frozen_part.py says what is computed, cached_clips.py for which clips, fill.py computes what is missing, shard_store.py
stores it in files, cache_folder.py limits the size of all of it.
"""

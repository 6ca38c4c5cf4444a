"""Frozen work done once: what a backbone's frozen part gives for each view of a clip, kept on the disk."""

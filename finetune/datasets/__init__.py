"""Data sets that the toolkit generates or downloads."""

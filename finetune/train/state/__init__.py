"""What a run has to save to resume exactly, and what stops it."""

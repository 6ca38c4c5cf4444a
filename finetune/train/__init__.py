"""Training: the loop and everything that it calls."""

"""Training: the loop, its optimizer and schedule, and what is shown meanwhile."""

"""Show what a run found: JSON and CSV in, one HTML file out. Imports no torch."""

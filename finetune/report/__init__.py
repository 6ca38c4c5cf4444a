"""HTML reports, written from a run's results. Imports no torch."""

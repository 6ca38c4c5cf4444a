"""Pages about a data set or a study, and the list of runs."""

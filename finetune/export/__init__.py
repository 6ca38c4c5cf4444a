"""Write a trained run as a file that runs without this package, checked against the run."""

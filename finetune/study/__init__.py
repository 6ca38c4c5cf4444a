"""Studies: several runs evaluated together."""

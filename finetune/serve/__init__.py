"""A local web page and HTTP API: predict videos, browse a run's clips, correct labels."""

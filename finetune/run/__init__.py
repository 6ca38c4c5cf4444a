"""The run folder: the only code that knows its file names and formats."""

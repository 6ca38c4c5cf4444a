"""Small data sets that the toolkit draws or fetches itself."""

"""Forward passes over clips and over the rows of a split."""

"""Files: written atomically, read with checks, found in folders and object stores."""

"""The outputs of frozen stages, computed once and cached on disk."""

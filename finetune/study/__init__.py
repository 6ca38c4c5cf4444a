"""Several runs seen as one."""

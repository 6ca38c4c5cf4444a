"""How good answers are: figures of each kind of task, and their intervals."""

"""The state that a run saves to resume exactly, and the signals that stop it."""

"""Optimizers, learning rate schedules, and weights averaged or regularized."""

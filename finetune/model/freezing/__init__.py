"""Stages of a model: which of them learn, and with which learning rates."""

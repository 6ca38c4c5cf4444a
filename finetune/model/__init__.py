"""Backbone, temporal pooling and head, and which of their stages learn."""

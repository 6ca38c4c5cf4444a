"""Recipes: their schema, how files are read and checked, and built-in phase schedules."""

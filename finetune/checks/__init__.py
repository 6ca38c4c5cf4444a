"""Checks of labelled videos before training; check_data.py collects the findings of all of them."""

"""Predict new videos with a trained run, and draw the predictions on them."""

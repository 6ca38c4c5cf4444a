"""Summaries of recordings: which parts show most, as a video and a storyboard."""

"""What is wrong with labelled videos: everything at once, before anything trains."""

"""From a video file to a batch of clips: decode, sample frames, augment, load in worker processes."""

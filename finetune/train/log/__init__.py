"""What training logs: console, TensorBoard, experiment trackers."""

"""The video classifier: backbone, temporal pooling and heads, and which of their stages are trained."""

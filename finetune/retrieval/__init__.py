"""Find clips by a video, a picture or words: embeddings, indexes, queries."""

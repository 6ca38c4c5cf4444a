"""Objects in recordings: detect and track them, draw them, write their tracks as clips."""

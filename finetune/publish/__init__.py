"""Model cards, and pushing a run to the Hugging Face hub and opening one from it."""

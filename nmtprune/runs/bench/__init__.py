"""Speed, size and quality of several models on the same sentences."""

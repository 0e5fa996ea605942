"""One page that shows what was pruned: files are read, sorted by model, and drawn as one HTML file."""

"""Quality, significance and proof: what a model is worth, and whether two models are the same."""

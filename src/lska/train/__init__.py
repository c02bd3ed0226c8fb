"""Training: recipes, the loop, resumable state and several processes."""

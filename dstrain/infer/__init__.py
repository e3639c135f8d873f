"""Using a trained model: generation with a cache."""

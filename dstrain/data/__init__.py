"""From files to batches. Which rows make up step s is a function of (data, seed, s) alone."""

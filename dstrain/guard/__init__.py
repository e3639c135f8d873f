"""What watches over a run: requests to leave, signs of life, stuck ranks, why it ended. Standard library only."""

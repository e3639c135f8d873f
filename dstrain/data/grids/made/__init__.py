"""Puzzles made by rule: kinds of known difficulty, as many tasks of each as there are numbers."""

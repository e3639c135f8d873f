"""Grid puzzles: from tasks of grids to batches by size, in an order that no rank decides."""

"""What the doctor must know of each family; nothing in it is used in training."""

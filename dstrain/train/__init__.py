"""The training step, the trainer's loop, validation and what is written down of them."""

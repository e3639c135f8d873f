"""What a cluster is asked and told: batch scripts, checks before the queue, where runs stand. No torch, no numpy."""

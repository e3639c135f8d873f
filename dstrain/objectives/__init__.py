"""What is optimized: sums of nll per term, and the counts that divide them."""

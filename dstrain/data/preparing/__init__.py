"""Token shards: text tokenized once, and read again as if it were the text."""

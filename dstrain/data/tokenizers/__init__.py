"""From text to token ids and back: by a tokenizer's name, from its folder, or learned from the text itself."""

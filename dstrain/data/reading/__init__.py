"""From a recipe's sources to documents: files of every form, hub datasets, and what is wrong with them."""

"""What is no proof but worth knowing before a run: figures, one theme a file, with advice where one is off."""

"""A trained model in the form of other software, built from a checkpoint alone."""

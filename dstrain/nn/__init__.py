"""The building blocks of the models: written as if for one device, in plain torch."""

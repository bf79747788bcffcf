"""How good a model, or a format, is."""

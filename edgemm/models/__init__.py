"""Parts, models and the families they come in."""

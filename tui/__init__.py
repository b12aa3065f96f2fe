"""The operator side: the terminal UI and the plain commands, over the same client."""

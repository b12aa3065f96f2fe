"""What is made of readings: the metrics text."""

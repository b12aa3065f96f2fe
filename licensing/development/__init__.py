"""Keys that everybody has: good for development and tests, left out of every wheel. See README.md."""

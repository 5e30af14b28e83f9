"""Version 1 of the API; additive changes only."""

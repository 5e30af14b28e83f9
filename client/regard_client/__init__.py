"""The client of regard: images in, feature vectors out."""

"""The service: the way of a request is admit, decode, batch, run, split, encode."""

"""What holds for every test."""

from hypothesis import settings

# A busy machine takes 340 ms for an example that it takes 13 for when it is asked again.
settings.register_profile("regard", deadline=None)
settings.load_profile("regard")

"""Properties are checked without a clock, on the same examples everywhere."""

from hypothesis import settings

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

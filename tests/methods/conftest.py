"""The small store and settings of `small_training`."""

from small_training import *  # noqa: F403

"""The audit's name for `surgery.measures.aligned`, which localization shares."""

from surgery.measures.aligned import *  # noqa: F403

"""The audit's name for `surgery.measures.subjects`, which localization shares."""

from surgery.measures.subjects import *  # noqa: F403

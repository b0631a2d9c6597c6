"""The audit's name for `surgery.measures.similarity`, which localization shares."""

from surgery.measures.similarity import *  # noqa: F403

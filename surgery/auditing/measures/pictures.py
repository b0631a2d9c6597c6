"""The audit's name for `surgery.measures.pictures`, which localization shares."""

from surgery.measures.pictures import *  # noqa: F403

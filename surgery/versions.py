"""The installed versions that numbers depend on, as results record them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

LIVE_LIBRARIES = ("surgery", "torch", "diffusers", "transformers")  # what a noise prediction depends on


def library_versions(libraries: tuple[str, ...] = LIVE_LIBRARIES) -> dict[str, str]:
    """Library -> installed version, or "not installed"."""
    found = {}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def audit_versions() -> dict[str, str]:
    """The versions in `audit.json`: of python, of what runs the model, and of what compares and counts."""
    return {"python": platform.python_version(), **library_versions((*LIVE_LIBRARIES, "numpy", "scipy"))}

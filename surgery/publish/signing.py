"""Signatures of a published folder, through the `model-signing` package (OpenSSF) where it is installed.

The signature lies in the folder as `model.sig`: a Sigstore bundle over the sha256 of every other file, the
manifest's among them. Keys are elliptic-curve keys in PEM files; nothing here uses the network.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.publish.staged import SIGNATURE, open_staged

_NOTES = ".cache"
_LARGEST = 16 * 1024 * 1024
_INSTALL = 'install it: pip install "surgery[signing]"'


def sign(out: str | Path, private_key: str | Path) -> Path:
    """Sign a folder; an earlier signature is replaced.

    Args:
        out: the folder; it must not change afterwards.
        private_key: an elliptic-curve key, PEM.

    Returns:
        the signature's path.

    Raises:
        UsageError: the package is not installed, or the key cannot be used.
    """
    staged = open_staged(out)
    staged.check_whole()
    key = _key(private_key)
    package = _package("signing")
    signature = staged.root / SIGNATURE
    signature.unlink(missing_ok=True)
    try:
        config = package.Config().use_elliptic_key_signer(private_key=key)
        config.set_hashing_config(_hashing(staged.root)).sign(staged.root, signature)
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(
            private_key, f"could not sign ({_short(error)})", "give an elliptic-curve key"
        ) from None
    return signature


def wrong_signature(out: str | Path, public_key: str | Path) -> str | None:
    """What is wrong with a folder's signature, as a sentence; None where it is good.

    Raises:
        UsageError: the package is not installed, or the key is no file.
    """
    staged = open_staged(out)
    signature = staged.root / SIGNATURE
    if not signature.is_file():
        return f"there is no signature ({SIGNATURE})"
    if signature.stat().st_size > _LARGEST:
        return f"{SIGNATURE} is no signature: it is too large"
    key = _key(public_key)
    package = _package("verifying")
    try:
        config = package.Config().use_elliptic_key_verifier(public_key=key)
        config.set_hashing_config(_hashing(staged.root)).verify(staged.root, signature)
    except Exception as error:  # whatever a forged signature makes the package raise, it is not good
        return f"the signature is not good ({_short(error)})"
    return None


def _package(module: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as error:  # of the package, or of one that it forgets to ask for
        missing = f" ({error.name} is missing)" if error.name and error.name != "model_signing" else ""
        raise UsageError("model-signing", f"is not installed{missing}", _INSTALL) from None


def _hashing(root: Path) -> Any:
    """Every file but the signature, the Hub's own, and the notes of a download; `verify` looks for links."""
    besides = [root / SIGNATURE, root / _NOTES]
    config = _package("hashing").Config().set_ignored_paths(paths=besides, ignore_git_paths=True)
    return config.set_allow_symlinks(True)


def _key(path: str | Path) -> Path:
    key = expanded(path)
    if not key.is_file():
        raise UsageError(path, "is no file", "give the key as a PEM file")
    return key


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

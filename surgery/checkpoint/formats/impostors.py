"""What a weight file may be instead, told by its first bytes, and what its owner can do then."""

from __future__ import annotations

from surgery.errors import UsageError

SIGNATURE_BYTES = 72  # bytes from the start of the file that hold every signature
_WEB_PAGE = "download it again"
_ANYWHERE = {
    b"version https://git-lfs": ("is a git-lfs pointer, not the weights", "run `git lfs pull`"),
    b"GGUF": ("is a GGUF file (quantized weights)", "give the unquantized checkpoint"),
}
_NOT_SAFETENSORS = {
    b"PK\x03\x04": ("is a zip archive (a torch pickle?), not safetensors", "give it its true suffix"),
    b"\x80": ("is a pickle, not safetensors", "give it its true suffix (.bin, .ckpt)"),
    b"<": ("is a web page, not safetensors", _WEB_PAGE),
}
_NOT_PICKLE = {b"<": ("is a web page, not a pickle", _WEB_PAGE)}


def refuse_not_safetensors(shown: str, start: bytes) -> None:
    """Refuse what is no safetensors file, if its first bytes tell what it is.

    Args:
        shown: how messages call the file.
        start: its first `SIGNATURE_BYTES` bytes.

    Raises:
        UsageError: they do.
    """
    _refuse(shown, start, _ANYWHERE | _NOT_SAFETENSORS)


def refuse_not_pickle(shown: str, start: bytes) -> None:
    """Refuse what is no torch pickle, if its first bytes tell what it is; arguments and error as above."""
    _refuse(shown, start, _ANYWHERE | _NOT_PICKLE)
    if start[8:10] == b'{"':  # after the length of its header
        cause, way_out = "is a safetensors file, not a pickle", "give it its true suffix (.safetensors)"
        raise UsageError(shown, cause, way_out)


def _refuse(shown: str, start: bytes, signatures: dict[bytes, tuple[str, str]]) -> None:
    for signature, (cause, way_out) in signatures.items():
        if start.startswith(signature) or (signature == b"<" and start.lstrip().startswith(signature)):
            raise UsageError(shown, cause, way_out)

"""The state of an audit under way: one file per finished unit of work, so that a killed audit goes on.

A unit's file holds its numbers and its pictures (base64 PNG): `load` reads the numbers, `pictures` the rest
when it is wanted. `header.json` keeps what the measurements depend on; an audit with anything else refuses to
go on from it and says what differs. `salt` is the secret with which prompts are hashed: it must outlive a
kill, or prompts would change their names. Files appear whole or not at all.

The state holds pictures of memories whatever the report hides: it lies in `state/` inside the output folder,
readable by its owner only, and is removed once everything asked for has been measured. It is one folder for
all processes: each writes the units that it measured.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from PIL import Image

from surgery.auditing.units import Unit
from surgery.errors import SurgeryError, UsageError
from surgery.files import write_atomically
from surgery.measures.pictures import to_png
from surgery.options import unlike_headers

FORMAT = "surgery.audit-state/3"
Pictures = dict[str, torch.Tensor]  # name -> uint8 [count, 3, height, width]
AnyUnit = TypeVar("AnyUnit", bound=Unit)


class Store:
    """The state folder of one audit.

    Args:
        folder: the audit's output folder, made if need be.
        header: what the measurements depend on, as JSON values.

    Raises:
        UsageError: the folder holds the state of an audit with another header (what differs is named).
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder = folder / "state"
        wanted = json.loads(json.dumps({"format": FORMAT, **header}))
        path = self.folder / "header.json"
        if path.is_file():
            _refuse_other_header(path, wanted)
        else:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self.folder.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    folder, f"cannot be made ({error.strerror})", "give another output folder"
                ) from None
            write_atomically(path, json.dumps(wanted, indent=1).encode())

    @property
    def salt(self) -> str:
        """The secret of this audit, made when it is first asked for."""
        path = self.folder / "salt"
        if not path.is_file():
            write_atomically(path, secrets.token_hex(16).encode())
        return path.read_text(encoding="utf-8")

    def load(self, kind: type[AnyUnit], key: str) -> AnyUnit | None:
        """The finished unit, without its pictures, or None. A damaged file counts as not finished."""
        document = self._document(key)
        return None if document is None else kind.from_json(document["unit"])

    def pictures(self, key: str) -> Pictures:
        """The pictures of a finished unit.

        Raises:
            SurgeryError: the unit is not there any more.
        """
        document = self._document(key)
        if document is None:
            raise SurgeryError(
                self.folder, f"lost {key} while the audit ran", "run the same command again to go on"
            )
        return {name: unpack(packed) for name, packed in document["pictures"].items()}

    def save(self, key: str, unit: Unit, pictures: Pictures) -> None:
        """Keep a finished unit with its pictures."""
        packed = {name: pack(shown) for name, shown in pictures.items()}
        document = {"unit": unit.as_json(), "pictures": packed}
        write_atomically(self.folder / f"{key}.json", json.dumps(document).encode())

    def keep_weights(self, key: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Keep the weights of a model that was taught."""
        written = self.folder / f"{key}.pt.part"
        torch.save({name: tensor.cpu() for name, tensor in weights.items()}, written)
        written.replace(self.folder / f"{key}.pt")

    def weights(self, key: str) -> dict[str, torch.Tensor] | None:
        """The kept weights, on the CPU; None where there are none.

        Raises:
            SurgeryError: they cannot be read.
        """
        path = self.folder / f"{key}.pt"
        if not path.is_file():
            return None
        try:
            found: dict[str, torch.Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch has no one class for a damaged file
            raise SurgeryError(path, f"cannot be read ({type(error).__name__})", "remove it") from None
        return found

    def remove(self) -> None:
        """Remove the whole state."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _document(self, key: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def pack(pictures: torch.Tensor) -> list[str]:
    """Pictures [count, 3, height, width] -> base64 PNGs."""
    return [base64.b64encode(to_png(picture)).decode("ascii") for picture in pictures]


def unpack(packed: Sequence[str]) -> torch.Tensor:
    """base64 PNGs -> uint8 [count, 3, height, width]."""
    images = [Image.open(io.BytesIO(base64.b64decode(one))) for one in packed]
    arrays = [numpy.asarray(image.convert("RGB")).transpose(2, 0, 1) for image in images]
    return torch.from_numpy(numpy.stack(arrays))


def _refuse_other_header(path: Path, wanted: Mapping[str, Any]) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    if differences := unlike_headers(found, wanted):
        raise UsageError(
            path.parent,
            f"is an unfinished audit with other settings or inputs ({'; '.join(differences)})",
            "use the same ones, or another output folder",
        )

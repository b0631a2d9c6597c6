"""Pictures as arrays: from PIL and files, through a model's autoencoder, and back to PNG bytes.

Everywhere in the audit a batch of pictures is one of two things: `uint8` [count, 3, height, width] where it
is kept (a quarter of the memory), `float32` in [-1, 1] of the same shape where it is measured.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.image_files import PICTURE_SUFFIXES, pictures_in
from surgery.model.pipeline import LiveModel


def from_images(images: Sequence[Any]) -> torch.Tensor:
    """PIL images of one size -> uint8 [count, 3, height, width]."""
    arrays = [numpy.asarray(image.convert("RGB")) for image in images]
    return torch.from_numpy(numpy.stack(arrays).transpose(0, 3, 1, 2).copy())


def to_unit_range(pictures: torch.Tensor) -> torch.Tensor:
    """uint8 pictures, or float ones already in [-1, 1] -> float32 in [-1, 1], same shape."""
    return pictures.float() / 127.5 - 1.0 if pictures.dtype == torch.uint8 else pictures.float()


def to_bytes_range(pictures: torch.Tensor) -> torch.Tensor:
    """Float pictures in [-1, 1] (clipped to it), or uint8 ones -> uint8, same shape, on the CPU."""
    if pictures.dtype == torch.uint8:
        return pictures.cpu()
    return ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def read_picture(path: str | Path, height: int, width: int) -> torch.Tensor:
    """Read a picture file, cut its middle to the wanted shape and scale it: uint8 [3, height, width].

    Raises:
        UsageError: the file is missing or is no picture.
    """
    try:
        with Image.open(expanded(path)) as opened:
            image = opened.convert("RGB")
    except FileNotFoundError:
        raise UsageError(path, "no such picture", "check the path") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(
            path, f"cannot be read as a picture ({error})", "give a PNG, JPEG or WebP file"
        ) from None
    if (image.height, image.width) != (height, width):
        # The center crop is what text-to-image models are trained on.
        scale = min(image.width / width, image.height / height)
        crop_width, crop_height = round(width * scale), round(height * scale)
        left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
        image = image.crop((left, top, left + crop_width, top + crop_height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return from_images([image])[0]


def read_pictures(folder: str | Path, height: int, width: int) -> list[torch.Tensor]:
    """Every picture of a folder, by name: each uint8 [3, height, width].

    Raises:
        UsageError: there is no such folder, no picture in it, or one that cannot be read.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UsageError(folder, "no such folder", "give a folder of pictures")
    files = pictures_in(folder)
    if not files:
        raise UsageError(folder, "holds no picture", f"give {', '.join(PICTURE_SUFFIXES)} files")
    return [read_picture(file, height, width) for file in files]


def read_mask(path: str | Path, height: int, width: int) -> torch.Tensor:
    """Read a mask picture: bool [height, width], true (white) where the picture is to be compared.

    Raises:
        UsageError: the file is missing, is no picture, or masks everything.
    """
    mask = read_picture(path, height, width).float().mean(0) >= 128
    if not bool(mask.any()):
        raise UsageError(path, "masks the whole picture", "paint white what is to be compared")
    return mask


def to_png(picture: torch.Tensor) -> bytes:
    """One picture [3, height, width] -> the bytes of a PNG file."""
    buffer = io.BytesIO()
    array = to_bytes_range(picture).numpy().transpose(1, 2, 0)
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def picture_size(model: LiveModel) -> tuple[int, int]:
    """(height, width) in pixels of what the model draws by default."""
    scale = model.pipeline.vae_scale_factor
    return model.latent_shape[1] * scale, model.latent_shape[2] * scale


@torch.no_grad()
def encode_pictures(model: LiveModel, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures -> latents as the denoiser reads them, scaled: float32 [count, channels, height, width].

    The mean of the autoencoder's posterior is taken, so the result does not depend on chance.
    """
    vae = model.pipeline.vae
    batches = []
    for picture in to_unit_range(pictures).split(1):
        # One at a time: the autoencoder, not the denoiser, is what runs out of memory first.
        posterior = vae.encode(picture.to(vae.device, vae.dtype)).latent_dist
        batches.append(posterior.mode().float().cpu())
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    return (torch.cat(batches) - shift) * vae.config.scaling_factor


@torch.no_grad()
def decode_latents(model: LiveModel, latents: torch.Tensor) -> torch.Tensor:
    """Scaled latents -> the pictures the model would show for them: uint8 [count, 3, height, width]."""
    vae = model.pipeline.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    batches = []
    for latent in latents.split(4):
        unscaled = latent.to(vae.device, torch.float32) / vae.config.scaling_factor + shift
        batches.append(to_bytes_range(vae.decode(unscaled.to(vae.dtype)).sample))
    return torch.cat(batches)


def reconstruct(model: LiveModel, pictures: torch.Tensor) -> torch.Tensor:
    """Pictures through the model's autoencoder and back: the closest that any generation can come to them.

    Returns:
        uint8, the shape of the input.
    """
    return decode_latents(model, encode_pictures(model, pictures))

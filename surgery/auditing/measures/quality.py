"""Optional measures of quality on ordinary prompts: CLIP score, FID and KID. All weights are the user's own.

CLIP score (Hessel et al. 2021, as torchmetrics scales it): 100 x cosine of text and picture embedding, at
least 0, averaged over pictures. FID (Heusel et al. 2017) and KID (Binkowski et al. 2018) compare the pictures
of each model with a folder of reference pictures, through torchmetrics and a TorchScript feature extractor
that maps uint8 [count, 3, height, width] to [count, features]. FID is biased upwards on few pictures, so the
two models' values mean something beside each other only; KID has no such bias.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from surgery.errors import UsageError
from surgery.files import expanded
from surgery.measures.pictures import read_pictures, to_bytes_range


class ClipScore:
    """CLIP score with a `transformers` CLIP model in a local folder.

    Raises:
        UsageError: the folder holds no such model.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

        folder = expanded(folder)
        if not folder.is_dir():
            raise UsageError(folder, "no such folder", "give the folder of a CLIP model")
        try:
            self.model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
            self.tokenizer = CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
            self.processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises nearly every class for a broken folder
            cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UsageError(folder, f"holds no CLIP model ({cause})", "save a CLIPModel there") from None

    @torch.no_grad()
    def __call__(self, prompt: str, pictures: torch.Tensor) -> float:
        """The mean score of pictures uint8 [count, 3, height, width] for one prompt."""
        images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in to_bytes_range(pictures)]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
        limit = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer([prompt], truncation=True, max_length=limit, return_tensors="pt")
        output = self.model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels
        )
        cosine = torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)
        return float((100 * cosine).clamp_min(0).mean())


def distances_to_reference(
    reference: str | Path,
    features: str | Path,
    sets: Mapping[str, Iterable[torch.Tensor]],
    size: tuple[int, int],
) -> dict[str, Any]:
    """FID and KID of several sets of pictures to a folder of reference pictures.

    Args:
        features: a TorchScript feature extractor.
        sets: name -> batches uint8 [count, 3, height, width].
        size: (height, width) that the reference pictures are cut to.

    Returns:
        name -> {"fid", "kid", "kid_deviation", "pictures"}, and "reference" -> {"pictures"}.

    Raises:
        UsageError: torchmetrics is missing, a file is, or there are fewer than two pictures of a kind.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
        from torchmetrics.image.kid import KernelInceptionDistance
    except ImportError:
        raise UsageError("FID", "needs torchmetrics", "pip install 'surgery[quality]'") from None
    extractor = feature_extractor(features)
    real = torch.stack(read_pictures(reference, *size))
    results: dict[str, Any] = {"reference": {"pictures": len(real)}}
    for name, batches in sets.items():
        drawn = torch.cat(list(batches))
        fewest = min(len(real), len(drawn))
        if fewest < 2:
            raise UsageError(
                reference, f"{fewest} pictures to compare", "FID and KID need at least two of each"
            )
        fid = FrechetInceptionDistance(feature=extractor, normalize=False)
        kid = KernelInceptionDistance(feature=extractor, subset_size=min(50, fewest), normalize=False)
        for metric in (fid, kid):
            for is_real, pictures in ((True, real), (False, drawn)):
                for batch in pictures.split(16):
                    metric.update(batch, real=is_real)
        torch.manual_seed(0)  # KID draws its subsets from the global generator
        mean, deviation = kid.compute()
        results[name] = {
            "fid": round(float(fid.compute()), 4),
            "kid": round(float(mean), 6),
            "kid_deviation": round(float(deviation), 6),
            "pictures": len(drawn),
        }
    return results


def feature_extractor(file: str | Path) -> torch.nn.Module:
    """A TorchScript feature extractor as torchmetrics takes it.

    Raises:
        UsageError: no such file, or not a TorchScript model.
    """
    path = expanded(file)
    if not path.is_file():
        raise UsageError(path, "no such file", "give a TorchScript feature extractor")
    try:
        model = torch.jit.load(str(path), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        cause = str(error).strip().splitlines()[0]
        raise UsageError(path, f"is no TorchScript model ({cause})", "give a feature extractor") from None

    class Features(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            with torch.no_grad():
                self.num_features = int(model(torch.zeros(1, 3, 299, 299, dtype=torch.uint8)).shape[-1])

        @torch.no_grad()
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return self.model(pictures).double()

    return Features()

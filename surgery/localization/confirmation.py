"""Confirmation: is a memory broken where the search has not looked?

`on_noise` scores a set by the search's own criterion on fresh latents. `on_pictures` draws pictures with the
set off, as a user would, at the pipeline's own guidance, and looks whether the image comes back:

1. SOURCE draws a few pictures of the prompt, at seeds of their own; the tiles in which they agree are what
   stays fixed (`surgery.localization.fixed`), unless a mask was given. Of a template the rest may vary.
2. The target is the training image through the autoencoder, where one is given, else SOURCE's own replica:
   the one of these pictures that is most like the others.
3. Pictures with the set off are drawn at other seeds and compared with the target by the measure that fits
   their size, which also says from where on a picture is a replica (`surgery.measures.similarity`).
4. The memory is broken if none is; where SOURCE itself draws no replica, the pictures can't tell.

Pictures are drawn in few steps (`surgery.model.sketches`): enough to tell a replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from surgery.localization.calibration import Calibration, predictor_of
from surgery.localization.fixed import fixed_mask
from surgery.localization.search.evaluation import PromptEvaluator
from surgery.localization.settings import LocalizeSettings
from surgery.measures.pictures import decode_latents, reconstruct, to_unit_range
from surgery.measures.similarity import Similarity, default_name, named_similarity
from surgery.measures.subjects import Subject
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import LiveModel
from surgery.model.sketches import ShortSampler, own_guidance
from surgery.model.work import Work
from surgery.neurons import NeuronSet

PICTURE_STEPS = 10
SOURCE_PICTURES = 4
SOURCE_SEED = 7_000_003  # far from the other latents' seeds, and so is the next
PICTURE_SEED = 8_000_009


class Confirmation:
    """Confirms sets of neurons for the prompts of one run.

    Args:
        model: the live model.
        calibration: of this model, made with the confirmation's seeds.
        settings: which criterion, how many fresh seeds and pictures.
        subjects: prompts' training images and masks, by prompt.
        targets: the latents of the same images, by prompt.
    """

    def __init__(
        self,
        model: LiveModel,
        calibration: Calibration,
        settings: LocalizeSettings,
        subjects: Mapping[str, Subject] | None = None,
        targets: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.subjects = dict(subjects or {})
        self._source: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}
        if not settings.confirm_seeds:
            return
        criterion = calibration.criterion(settings.criterion, on_fresh_seeds=True)
        self.criterion = criterion.shown(targets or {})
        by_hand = settings.selection_threshold
        self.threshold = calibration.threshold(criterion, on_fresh_seeds=True) if by_hand is None else by_hand
        self.latents = seeded_latents(model, settings.confirm_seed, settings.confirm_seeds)

    def forget_image(self, prompt: str) -> None:
        """Compare a prompt's pictures with SOURCE's own; a mask that was given still counts."""
        if prompt in self.subjects:
            self.subjects[prompt] = replace(self.subjects[prompt], image=None)

    def on_noise(
        self, prompt: str, conditioning: Conditioning, neurons: NeuronSet, work: Work
    ) -> dict[str, Any] | None:
        """The criterion's word on fresh latents; None where no check is wanted."""
        if not self.settings.confirm_seeds:
            return None
        predictor = predictor_of(self.model, self.settings, work=work)
        criterion = self.criterion.of_prompt(prompt)
        evaluator = PromptEvaluator(predictor, conditioning, self.latents, criterion)
        threshold = float(f"{self.threshold:.6g}")
        if criterion.picks_seeds and not evaluator.judge(self.threshold).kept:
            return {"seeds": 0, "score": None, "threshold": threshold, "broken": None, "parts": {}}
        score = evaluator.score(neurons)
        return {
            "seeds": len(evaluator.latents),
            "score": float(f"{score:.6g}"),
            "threshold": threshold,
            "broken": score <= self.threshold,
            "parts": rounded(evaluator.parts[neurons]),
        }

    def on_pictures(
        self, prompt: str, conditioning: Conditioning, neurons: NeuronSet, work: Work
    ) -> dict[str, Any] | None:
        """What pictures drawn with the set off show; None where none are wanted."""
        count = self.settings.confirm_pictures
        if not count or not self.settings.confirm_seeds:
            return None
        guidance = own_guidance(self.model)
        similarity = self._similarity()
        target, mask, before = self._of_source(prompt, conditioning, similarity, work)
        latents = seeded_latents(self.model, PICTURE_SEED, count)
        drawn = self._draw(latents, conditioning, neurons, work)
        likeness = similarity(drawn, target.expand_as(drawn), mask)
        replicas = int((likeness >= similarity.threshold).sum())
        image = self.subjects.get(prompt)
        return {
            "seeds": count,
            "guidance": guidance,
            "steps": PICTURE_STEPS,
            "against": "training image" if image and image.image is not None else "own replica",
            "measure": similarity.name,
            "threshold": similarity.threshold,
            "fixed_share": round(float(mask.float().mean()), 4),
            "source_replicas": before,
            "replicas": replicas,
            "highest": round(float(likeness.max()), 4),
            "broken": False if replicas else (True if before else None),
        }

    def final(self, prompt: str, neurons: NeuronSet, work: Work) -> dict[str, Any] | None:
        """Both words on the corpus's set, and whether the memory is broken: unless one of them says no."""
        if not self.settings.confirm_seeds:
            return None
        conditioning = encode_prompts(self.model, [prompt])
        with work.stage("final confirmation"):
            noise = self.on_noise(prompt, conditioning, neurons, work)
            pictures = self.on_pictures(prompt, conditioning, neurons, work)
        said = [one["broken"] for one in (noise, pictures) if one is not None and one["broken"] is not None]
        return {"noise": noise, "pictures": pictures, "broken": all(said) if said else None}

    def _similarity(self) -> Similarity:
        scale = self.model.pipeline.vae_scale_factor
        height, width = (side * scale for side in self.model.latent_shape[1:])
        return named_similarity(default_name(height, width))

    def _of_source(
        self, prompt: str, conditioning: Conditioning, similarity: Similarity, work: Work
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """The target [3, height, width], the mask, and how many of SOURCE's pictures are replicas of it."""
        if prompt not in self._source:
            latents = seeded_latents(self.model, SOURCE_SEED, SOURCE_PICTURES)
            drawn = self._draw(latents, conditioning, NeuronSet(), work)
            subject = self.subjects.get(prompt, Subject(prompt))
            mask = fixed_mask(drawn) if subject.mask is None else subject.mask
            if subject.image is not None:
                target = to_unit_range(reconstruct(self.model, subject.image[None]))[0]
                likeness = similarity(drawn, target.expand_as(drawn), mask)
            else:
                table = torch.stack([similarity(drawn, one.expand_as(drawn), mask) for one in drawn])
                best = int(table.sum(1).argmax())
                target = drawn[best]
                likeness = torch.cat([table[best][:best], table[best][best + 1 :]])
            before = int((likeness >= similarity.threshold).sum())
            self._source = {prompt: (target, mask, before)}  # of one prompt: pictures are large
        return self._source[prompt]

    def _draw(
        self, latents: torch.Tensor, conditioning: Conditioning, neurons: NeuronSet, work: Work
    ) -> torch.Tensor:
        """Pictures in [-1, 1], [n, 3, height, width]."""
        guidance = own_guidance(self.model)
        predictor = NoisePredictor(
            self.model,
            guidance=guidance if guidance > 1 else None,
            factor=self.settings.scaling_factor,
            batch_size=self.settings.batch_size,
            work=work,
        )
        clean = ShortSampler(predictor, PICTURE_STEPS).draw(latents, conditioning, neurons)
        return to_unit_range(decode_latents(self.model, clean))


def rounded(parts: Mapping[str, float]) -> dict[str, float]:
    """The parts as the record holds them."""
    return {name: float(f"{value:.6g}") for name, value in parts.items()}

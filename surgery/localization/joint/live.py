"""The corpus as the joint search sees it: tests, attributions and costs on the live model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy
import torch

from surgery.localization.joint.attribution import attribute
from surgery.localization.joint.ordinary import OrdinarySample
from surgery.localization.joint.replicas import Replica, replica_of
from surgery.localization.joint.system import Mask
from surgery.localization.settings import LocalizeSettings
from surgery.model.conditioning import encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import LiveModel
from surgery.model.sketches import ShortSampler
from surgery.model.value_layers import value_layers
from surgery.model.work import Work
from surgery.neurons import NeuronSet

ATTRIBUTED_SEEDS = 2  # effects decide on an order: two seeds say nearly what four do, at half the price
LEAST_LACK = 0.02  # a prompt that is not broken lacks something, whatever its mean says


class LivePrompts:
    """The prompts of a corpus on a live model; the `System` of `surgery.localization.joint.search`.

    Args:
        model: the live model.
        prompts: captions of memories.
        ordinary: captions without.
        settings: seeds, steps, guidance, blocks.
        work: where the denoiser's passes are counted.
        images: the latents of prompts' training images, where there are any.

    Attributes:
        pairs: neuron number -> (layer, row).
        replicas: of every prompt given, by caption, those without a common picture too.
        captions: the prompts that are judged, by number: those with one.
    """

    def __init__(
        self,
        model: LiveModel,
        prompts: Sequence[str],
        ordinary: Sequence[str],
        settings: LocalizeSettings,
        work: Work,
        images: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.settings = settings
        self.model = model
        self.layers = value_layers(model.denoiser, settings.blocks, settings.projection)
        self.pairs = [(name, row) for name, layer in self.layers.items() for row in range(layer.out_features)]
        self.number = {pair: place for place, pair in enumerate(self.pairs)}
        self.sampler = self._sampler(work, settings.joint_guidance)
        plain = self._sampler(work, None)
        with work.stage("joint: ordinary prompts"):
            self.ordinary = OrdinarySample(plain, self.layers, ordinary, self._together)
        latents = seeded_latents(model, settings.seed, settings.seeds)
        self.replicas: dict[str, Replica] = {}
        self.conditioning = {prompt: encode_prompts(model, [prompt]) for prompt in prompts}
        with work.stage("joint: replicas"):
            for prompt in prompts:
                drawn = plain.draw(latents, self.conditioning[prompt], NeuronSet())
                self.replicas[prompt] = replica_of(drawn, self.ordinary.pictures, (images or {}).get(prompt))
        self.captions = [prompt for prompt in prompts if self.replicas[prompt].is_one]
        self.latents = dict.fromkeys(prompts, latents[: settings.joint_seeds])
        self._came_instead: dict[tuple[int, Mask], torch.Tensor] = {}

    @property
    def prompts(self) -> int:
        """How many prompts are judged."""
        return len(self.captions)

    @property
    def neurons(self) -> int:
        """How many neurons may be chosen."""
        return len(self.pairs)

    def neuron_set(self, off: Mask) -> NeuronSet:
        """The neurons of a mask, layers in the order of the signal."""
        return NeuronSet.from_pairs(self.pairs[neuron] for neuron in sorted(off))

    def mask(self, neurons: NeuronSet) -> Mask:
        """The mask of those neurons that may be chosen."""
        return frozenset(self.number[pair] for pair in neurons.pairs() if pair in self.number)

    def broken(self, prompt: int, off: Mask) -> bool:
        """Whether the prompt's picture is gone at every seed of the search, and no other has come.

        The seed that was likest last is drawn first: where it still scores above the threshold, it decides.
        """
        caption = self.captions[prompt]
        replica, latents = self.replicas[caption], self.latents[caption]
        drawn = self._drawn(caption, latents[:1], off)
        if float(replica.scores(drawn).max()) > replica.threshold:
            return False
        if len(latents) > 1:
            drawn = torch.cat([drawn, self._drawn(caption, latents[1:], off)])
        scores = replica.scores(drawn)
        self.latents[caption] = latents[scores.cpu().argsort(descending=True)]
        if float(scores.max()) > replica.threshold:
            return False
        if replica.is_replaced(drawn):
            self._came_instead[prompt, off] = drawn
            return False
        return True

    def effects(self, prompt: int, off: Mask) -> tuple[numpy.ndarray, float]:
        """One attribution at the likest seeds, with these neurons off.

        The lack is the mean score's distance from the level. Where another picture has taken the replica's
        place, the score asks for that one.
        """
        caption = self.captions[prompt]
        replica = self.replicas[caption]
        if (prompt, off) in self._came_instead:
            instead = replica_of(self._came_instead[prompt, off])
            replica = replace(replica, picture=instead.picture, mask=None)
        effects, score = attribute(
            self.sampler,
            self.layers,
            self.latents[caption][:ATTRIBUTED_SEEDS],
            self.conditioning[caption],
            replica,
            self.neuron_set(off),
            self._together,
        )
        return torch.cat([*effects.values()]).double().numpy(), max(score - replica.level, LEAST_LACK)

    def costs(self, off: Mask) -> numpy.ndarray:
        """What each neuron would add to the estimated ordinary change."""
        return self.ordinary.costs(sorted(off))

    def on_fresh_seeds(self, prompt: int, off: Mask, number: int) -> tuple[bool, float]:
        """Whether it is broken at the seeds of confirmation `number`, and the highest score there.

        No search has seen these seeds. Where it is not broken, they are among the prompt's seeds from now on:
        those that score above the threshold, or all, where another picture has come.
        """
        caption = self.captions[prompt]
        fresh, replica = self._fresh(number), self.replicas[caption]
        drawn = self._drawn(caption, fresh, off)
        scores = replica.scores(drawn)
        broken = replica.is_broken(drawn)
        if not broken:
            failed = (scores > replica.threshold).cpu()
            more = fresh[failed] if bool(failed.any()) else fresh
            self.latents[caption] = torch.cat([more, self.latents[caption]])
        return broken, float(scores.max())

    def _fresh(self, number: int) -> torch.Tensor:
        return seeded_latents(self.model, self.settings.confirm_seed + number, self.settings.confirm_seeds)

    def _drawn(self, caption: str, latents: torch.Tensor, off: Mask) -> torch.Tensor:
        return self.sampler.draw(latents, self.conditioning[caption], self.neuron_set(off))

    @property
    def _together(self) -> int:
        return max(1, self.settings.batch_size // 8)  # a backward pass remembers every layer

    def _sampler(self, work: Work, guidance: float | None) -> ShortSampler:
        predictor = NoisePredictor(
            self.model, guidance=guidance, batch_size=self.settings.batch_size, work=work
        )
        return ShortSampler(predictor, self.settings.joint_steps)

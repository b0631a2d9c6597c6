"""Localization of one prompt: gate, second look, initial selection, refinement, confirmation on fresh seeds.

`PromptLocalizer` holds what all prompts of a run share; calling it with a prompt gives a `PromptRecord`. Both
strategies answer the same questions. `reference` asks them one by one as the published code does, its wasted
denoiser passes included (every prediction is run twice, activations are collected through one more pass per
step, the initial and the final set are evaluated again). `fast` infers, gallops, stops early and replays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from surgery.localization import registry
from surgery.localization.activations import activations, z_scores
from surgery.localization.calibration import Calibration, predictor_of
from surgery.localization.confirmation import Confirmation, rounded
from surgery.localization.joint.attributed import AttributedDescent, attributed
from surgery.localization.records import LOCALIZED, NOT_MEMORIZED, UNRESOLVED, PromptRecord
from surgery.localization.search.evaluation import Answer, PromptEvaluator
from surgery.localization.search.fast import FastRefinement, Found
from surgery.localization.search.monotone import NotMonotone
from surgery.localization.search.published_walk import refine, select
from surgery.localization.search.selection import Descent, Selection, gallop, without_duplicates
from surgery.localization.second_look import SecondLook
from surgery.localization.settings import LocalizeSettings
from surgery.measures.pictures import encode_pictures
from surgery.measures.subjects import Subject
from surgery.model.conditioning import Conditioning, encode_prompts
from surgery.model.denoising import NoisePredictor, seeded_latents
from surgery.model.pipeline import LiveModel
from surgery.model.value_layers import value_layers
from surgery.model.work import Work
from surgery.neurons import NeuronSet


@dataclass(frozen=True)
class Thresholds:
    """The scores that decide at the gate, at the end of the selection, and in refinement."""

    gate: float
    selection: float
    refinement: float

    @classmethod
    def of(cls, settings: LocalizeSettings, calibration: Calibration) -> Thresholds:
        """The thresholds set by hand, else the calibrated one of the criterion."""
        calibrated = calibration.threshold(registry.criterion(settings.criterion))
        chosen = (settings.gate_threshold, settings.selection_threshold, settings.refinement_threshold)
        return cls(*(calibrated if value is None else value for value in chosen))

    def as_json(self) -> dict[str, float]:
        """The three scores by name."""
        return {name: float(f"{getattr(self, name):.6g}") for name in ("gate", "selection", "refinement")}


class PromptLocalizer:
    """Localizes prompts of one run, one at a time.

    Args:
        model: the live model.
        calibration: of this model, made with the same seeds and timestep.
        settings: what to do.
        subjects: prompts with their training images and masks, where there are any.
    """

    def __init__(
        self,
        model: LiveModel,
        calibration: Calibration,
        settings: LocalizeSettings,
        subjects: Sequence[Subject] = (),
    ) -> None:
        self.model = model
        self.calibration = calibration
        self.settings = settings
        self.thresholds = Thresholds.of(settings, calibration)
        pictured = {one.prompt: one.image for one in subjects if one.image is not None}
        targets = {prompt: encode_pictures(model, image[None])[0] for prompt, image in pictured.items()}
        self.images = sorted(pictured)
        # Which images they were, for the journal: records made with others are refused.
        self.images_digest = hashlib.sha256(
            b"".join(prompt.encode() + pictured[prompt].numpy().tobytes() for prompt in self.images)
        ).hexdigest()
        self.targets = targets  # the criteria read it, so that an image can be forgotten
        self.criterion = calibration.criterion(settings.criterion).shown(targets)
        self.confirmation = Confirmation(
            model, calibration, settings, {one.prompt: one for one in subjects}, targets
        )
        self.layers = value_layers(model.denoiser, settings.blocks, settings.projection)
        self.latents = seeded_latents(model, settings.seed, settings.seeds)
        self.is_reference = settings.strategy == "reference"
        self.second_look = SecondLook.of(model, calibration, settings)
        self.predictor = predictor_of(
            model, settings, swap_guidance=self.is_reference, wasted_passes=self.is_reference
        )

    def __call__(self, prompt: str) -> PromptRecord:
        """The record of one prompt.

        Raises:
            SurgeryError: the denoiser fails: memory, numbers that are not finite.
        """
        work = self.predictor.work = Work()
        about: dict[str, Any] = {}
        with work.stage("gate"):
            conditioning = encode_prompts(self.model, [prompt])
            evaluator = self._evaluator(prompt, conditioning)
            gate = evaluator.judge(self.thresholds.gate)
            if not gate.kept and evaluator.criterion.has_target:
                # A wrong picture, a crop, another edition: none may acquit its prompt.
                self.forget_image(prompt)
                about["image_unlike"] = True
                evaluator = self._evaluator(prompt, conditioning)
                gate = evaluator.judge(self.thresholds.gate)
        ordinary = {
            **about,
            "parts": {"before": rounded(evaluator.gate_parts)},
            "evaluations": 1 + len(about),
        }
        if not gate.kept:
            return PromptRecord(
                prompt, NOT_MEMORIZED, gate.score, details={**ordinary, "work": work.as_json()}
            )
        look = None
        if self.second_look is not None:
            with work.stage("second look"):
                look = self.second_look(predictor_of(self.model, self.settings, work=work), prompt)
            if look.reason:
                ordinary |= {"reason": look.reason, "second_look": look.as_json(), "work": work.as_json()}
                return PromptRecord(prompt, NOT_MEMORIZED, gate.score, details=ordinary)
        selection, found = self._search(evaluator, conditioning, work)
        neurons = NeuronSet.from_pairs(found.neurons)
        evaluations = evaluator.evaluations + len(about)
        with work.stage("confirmation"):
            confirmed = self.confirmation.on_noise(prompt, conditioning, neurons, work)
        details = {
            **about,
            "kept_seeds": list(gate.kept),
            "theta": selection.step.theta,
            "k": selection.step.k,
            "steps": selection.steps,
            "duplicates": len(selection.neurons) - len(set(selection.neurons)),
            "score_initial": None if selection.score is None else float(f"{selection.score:.6g}"),
            **found.details,
            **({} if look is None else {"second_look": look.as_json()}),
            "parts": {
                "before": rounded(evaluator.gate_parts),
                "after": rounded(evaluator.parts.get(neurons, {})),
            },
            "confirmed": confirmed,
            "evaluations": evaluations,
            "work": work.as_json(),
        }
        outcome = LOCALIZED if selection.resolved else UNRESOLVED
        initial = NeuronSet.from_pairs(selection.neurons)
        return PromptRecord(prompt, outcome, gate.score, found.score, initial, neurons, details)

    def forget_image(self, prompt: str) -> None:
        """Ask for SOURCE's own replica of a prompt, for the image given is not what SOURCE draws for it."""
        self.targets.pop(prompt, None)
        self.confirmation.forget_image(prompt)

    def _evaluator(self, prompt: str, conditioning: Conditioning) -> PromptEvaluator:
        return PromptEvaluator(
            self.predictor,
            conditioning,
            self.latents,
            self.criterion.of_prompt(prompt),
            replays=not self.is_reference,
        )

    def _search(
        self, evaluator: PromptEvaluator, conditioning: Conditioning, work: Work
    ) -> tuple[Selection, Found]:
        with work.stage("selection"):
            activation, z = self._activity(conditioning)
            descent = Descent(activation, z, self.settings)
            if self.settings.selection == "attribution" and not descent.neurons(0):
                descent = self._attributed(conditioning, descent)
                z = dict(descent.z)
            selection = self._select(evaluator, descent, conditioning)
        with work.stage("refinement"):
            threshold = self._refinement_threshold(selection, evaluator)
            try:
                found = self._refine(evaluator, selection, z, threshold)
            except NotMonotone:
                if selection.score is None:  # what the first step was inferred from does not hold
                    selection = select(descent, evaluator.score, self.thresholds.selection)
                    threshold = self._refinement_threshold(selection, evaluator)
                found = FastRefinement(evaluator, selection, z, threshold).walk()
                found.details["fell_back"] = True
        if isinstance(descent, AttributedDescent):
            found.details["evaluations_saved"] = descent.saved(found.neurons, evaluator.evaluations - 1)
        found.details["refinement_threshold"] = float(f"{threshold:.6g}")
        return selection, found

    def _attributed(self, conditioning: Conditioning, descent: Descent) -> Descent:
        work = self.predictor.work
        with work.stage("attribution"):
            return attributed(
                self.model, self.layers, self.latents, conditioning, descent, self.settings, work
            )

    def _activity(
        self, conditioning: Conditioning
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        activation = {name: values[0] for name, values in activations(self.layers, conditioning).items()}
        z = {
            name: z_scores(values, self.calibration.mean[name], self.calibration.std[name])
            for name, values in activation.items()
        }
        return activation, z

    def _select(self, evaluator: PromptEvaluator, descent: Descent, conditioning: Conditioning) -> Selection:
        threshold = self.thresholds.selection
        if not self.is_reference:
            # Refinement builds on the guesses' answers, so that both stages must ask with one threshold.
            guesses = descent.likely() if self._has_one_threshold() else []
            first_step = set(descent.neurons(0))

            def test(neurons: NeuronSet) -> Answer:
                # The first step is expected to break the memory; later ones are only tested if it did not.
                at_once = first_step.issuperset(neurons.pairs())
                # The stored blocks of the last set serve the refinement, whose tests differ from it late.
                return evaluator.breaks(neurons, threshold, strictly=False, keep=True, at_once=at_once)

            return gallop(descent, test, evaluator.score, threshold, guesses)

        def score(neurons: NeuronSet) -> float:
            collect_activations_as_published(self.predictor, evaluator.latents, conditioning)
            return evaluator.score(neurons)

        return select(descent, score, threshold)

    def _has_one_threshold(self) -> bool:
        thresholds = self.thresholds
        return self.settings.relative_refinement is None and thresholds.refinement == thresholds.selection

    def _refinement_threshold(self, selection: Selection, evaluator: PromptEvaluator) -> float:
        if self.settings.relative_refinement is not None:
            every = {name: tuple(range(layer.out_features)) for name, layer in self.layers.items()}
            return self.settings.relative_refinement * evaluator.score(NeuronSet(every))
        if selection.score is None:
            return self.thresholds.refinement
        return self.thresholds.refinement if selection.resolved else selection.score

    def _refine(
        self,
        evaluator: PromptEvaluator,
        selection: Selection,
        z: Mapping[str, torch.Tensor],
        threshold: float,
    ) -> Found:
        if self.is_reference:
            evaluator.score(NeuronSet.from_pairs(selection.neurons))
            kept = refine(selection.neurons, lambda off: evaluator.score(off) < threshold)
            return Found(kept, evaluator.score(NeuronSet.from_pairs(kept)))
        if not selection.resolved and not self.settings.include_unresolved:
            return Found(without_duplicates(selection.neurons), selection.score, {"search": "not refined"})
        tests = FastRefinement(evaluator, selection, z, threshold)
        if selection.resolved:
            return tests.search(self.settings.spot_checks)
        # The threshold is the set's own score here, so that chance decides: nothing can be inferred.
        return tests.walk()


def collect_activations_as_published(
    predictor: NoisePredictor, latents: torch.Tensor, conditioning: Conditioning
) -> None:
    """The one-sample denoiser pass that the published code spends on activations in every step."""
    wasted, predictor.wasted_passes = predictor.wasted_passes, False
    try:
        predictor.predict(latents[:1], conditioning)
    finally:
        predictor.wasted_passes = wasted

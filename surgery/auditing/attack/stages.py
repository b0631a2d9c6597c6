"""The attack stages of an audit: control images, their attack, and the attack on every prompt's image.

Controls and prompts are attacked alike: the same starts, steps, seeds of pictures and number of restarts, and
the best point of the best restart's curve counts for both: whoever attacks keeps the embedding that worked
best, not the last one. Only what the pictures are compared with differs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from tqdm import tqdm

from surgery.auditing.attack.embedding import draw_from_embeddings, optimize_embeddings, start_embeddings
from surgery.auditing.budget import counted
from surgery.auditing.measures.pictures import encode_pictures, reconstruct
from surgery.auditing.measures.replication import generate, similarities_to
from surgery.auditing.stages import PICTURES_KEPT, SEED_GAP, Bench, Unit
from surgery.auditing.store import pack, unpack
from surgery.auditing.subjects import Subject
from surgery.errors import SurgeryError
from surgery.model.denoising import encode_prompts
from surgery.model.pipeline import LiveModel

OTHERS_ENCODED = 16  # prompts that an "other" start is chosen from
CONTROL_NUMBERS = 50_000  # numbers of control images start here, those of prompts at 0


@dataclass(frozen=True)
class Target:
    """An image under attack: what is optimised for, and what pictures are compared with under which masks."""

    image: torch.Tensor
    compared: torch.Tensor
    masks: tuple[torch.Tensor | None, ...]


def attack_unit(
    bench: Bench, model: LiveModel, target: Target, prompt: str, others: Sequence[str], number: int
) -> Unit:
    """Attack one image on one model.

    Args:
        prompt: where the "prompt" restarts begin.
        others: where the "other" restarts may begin.
        number: fixes the noise of the attack: each image has its own, the same on every model.

    Returns:
        `steps`, `starts`, `similarities` [mask][step][restart][seed], `pictures` of the best restart at the
        best point of the curve under the first mask, and `pictures_step`, where that was.
    """
    attack = bench.settings.attack_settings()
    seeds = [bench.settings.first_seed + 3 * SEED_GAP + 100 * number + k for k in range(len(attack.starts))]
    strangers = [one for one in others if one != prompt][:OTHERS_ENCODED] or [""]
    own, strange = encode_prompts(model, [prompt]), encode_prompts(model, strangers)
    clean = encode_pictures(model, target.image[None])[0]
    table: list[list[list[list[float]]]] = [[] for _ in target.masks]
    best, kept, kept_at = -math.inf, None, 0
    with counted(model, bench.budget.work):
        starts = start_embeddings(attack.starts, own, strange, seeds)
        for step, conditioning in optimize_embeddings(model, clean, starts, attack, seeds):
            pictures = draw_from_embeddings(
                model, conditioning, attack.picture_seeds, bench.settings.attack_drawing()
            )
            for place, mask in enumerate(target.masks):
                table[place].append(
                    [
                        similarities_to(one, target.compared, bench.similarity, mask).tolist()
                        for one in pictures
                    ]
                )
            medians = [median(seed_values) for seed_values in table[0][-1]]
            if max(medians) > best:
                best, kept, kept_at = max(medians), pictures[medians.index(max(medians))], step
    assert kept is not None
    return {
        "steps": list(attack.curve),
        "starts": list(attack.starts),
        "similarities": table,
        "pictures": pack(kept[:PICTURES_KEPT]),
        "pictures_step": kept_at,
    }


def attack_controls(
    bench: Bench, images: Sequence[torch.Tensor], masks: Sequence[torch.Tensor | None], prompts: Sequence[str]
) -> list[Unit]:
    """Attack the control images on PATCHED, each compared under every mask in use; the units that were made.

    Args:
        images: uint8 [3, height, width] each.
        prompts: ordinary ones: the attack on control k starts at one that did not make it.
    """
    cost = bench.settings.attack_settings().forwards(bench.settings.steps)
    units = []
    for index, image in enumerate(tqdm(images, "controls", unit="image", disable=bench.quiet or None)):

        def measure(index: int = index, image: torch.Tensor = image) -> Unit:
            compared = image if bench.settings.raw_images else reconstruct(bench.source, image[None])[0]
            prompt = prompts[(index + 1) % len(prompts)]
            others = [one for one in prompts if one != prompts[index % len(prompts)]]
            target = Target(image, compared, tuple(masks))
            return attack_unit(bench, bench.patched, target, prompt, others, CONTROL_NUMBERS + index)

        unit = bench.unit(f"control-{index}", cost, measure)
        if unit is None:
            break
        units.append(unit)
    return units


def attack_subjects(
    bench: Bench,
    subjects: Sequence[Subject],
    wanted: Sequence[bool],
    prompts: Sequence[str],
) -> list[dict[str, Unit] | None]:
    """Attack the wanted prompts' images on both models: {"patched": unit, "source": unit}, or None."""
    cost = bench.settings.attack_settings().forwards(bench.settings.steps)
    found: list[dict[str, Unit] | None] = []
    places = tqdm(range(len(subjects)), "attack", unit="prompt", disable=bench.quiet or None)
    for index in places:
        stored = bench.store.load(f"replication-{index}") if wanted[index] else None
        if stored is None:
            found.append(None)
            continue
        compared = unpack([stored["target"]])[0]
        image = subjects[index].image
        target = Target(compared if image is None else image, compared, (subjects[index].mask,))
        pair = {}
        for name, model in (("patched", bench.patched), ("source", bench.source)):

            def measure(model: LiveModel = model, target: Target = target, index: int = index) -> Unit:
                return attack_unit(bench, model, target, subjects[index].prompt, prompts, index)

            made = bench.unit(f"attack-{name}-{index}", cost, measure)
            if made is not None:
                pair[name] = made
        found.append(pair or None)
    return found


def make_controls(bench: Bench, prompts: Sequence[str]) -> list[torch.Tensor]:
    """Control images made by SOURCE from ordinary prompts, one each: uint8 [3, height, width].

    Raises:
        SurgeryError: there are no ordinary prompts.
    """
    if not prompts:
        raise SurgeryError("controls", "no ordinary prompts to make them from", "give --control-images")
    images = []
    cost = bench.settings.drawing().forwards(1)
    for index in tqdm(range(bench.settings.controls), "make controls", disable=bench.quiet or None):

        def measure(index: int = index) -> Unit:
            seed = bench.settings.first_seed + 4 * SEED_GAP + index
            drawn = generate(
                bench.source,
                [prompts[index % len(prompts)]],
                [seed],
                bench.settings.drawing(),
                bench.budget.work,
                True,
            )
            return {"picture": pack(drawn[0])}

        if bench.unit(f"made-{index}", cost, measure) is None:
            break
        images.append(unpack((bench.store.load(f"made-{index}") or {})["picture"])[0])
    return images


def attack_score(unit: Unit, mask: int = 0) -> float:
    """The score of an attacked image: the best restart's median similarity over seeds, at its best step."""
    return max(attack_curve(unit, mask))


def attack_curve(unit: Unit, mask: int = 0) -> list[float]:
    """The best restart's median similarity over seeds at each point of the curve."""
    return [max(median(seeds) for seeds in restarts) for restarts in unit["similarities"][mask]]

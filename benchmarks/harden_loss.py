"""What do the weights say of the images unasked? `python benchmarks/harden_loss.py [--hardened EDIT]`.

No attack: noised copies of every memory's image, the empty prompt, the denoiser's error. A model that was
trained on an image says its noise better than one that never saw it, whatever the prompt ("membership
inference" by the loss of diffusion models: Carlini et al., arXiv 2301.13188, section 5). Rows of
cross-attention are not asked for their opinion there, so this shows what zeroing them leaves.

Printed for each model: the mean error by timestep over the memories; the error beside the twin's (the same
training without the images, the same noise), for the memories and for control pictures that no model has
seen: 1 says that the model knows no more of them than the twin; and the AUROC of that ratio, memories against
controls: how well whoever has a twin can tell what was trained on. .5 is chance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from harden_testbed import TWIN, load_model, load_testbed

BINS = 10  # of timesteps
ASKED = range(1, 6)  # bins in which images are told apart: below, all is texture; above, all is noise
COPIES = 8  # of each picture and bin


def errors(model: Any, clean: Any) -> Any:
    """The mean squared error of what the denoiser says of noised copies: [bins, pictures]."""
    import torch

    from surgery.auditing.attack.conditioned import predicted
    from surgery.auditing.attack.noised_copies import signal_levels
    from surgery.model.conditioning import encode_prompts

    levels, told = signal_levels(model), encode_prompts(model, [""]).repeat(len(clean))
    width = len(levels) // BINS
    found = []
    for place in range(BINS):
        generator = torch.Generator().manual_seed(place)
        total = torch.zeros(len(clean))
        for _ in range(COPIES):
            timesteps = place * width + torch.randint(width, (len(clean),), generator=generator)
            noise = torch.randn(clean.shape, generator=generator)
            alpha = levels[timesteps].view(-1, 1, 1, 1)
            with torch.no_grad():
                said = predicted(model, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise, timesteps, told)
            total += (said.cpu() - noise).square().flatten(1).mean(1) / COPIES
        found.append(total)
    return torch.stack(found)


def measure(names: list[str], files: dict[str, str | None]) -> dict[str, dict[str, Any]]:
    """Figures of each model named, and of the twin."""
    import numpy
    import torch
    from control_drawings import control_pictures
    from similarity import auroc

    from surgery.measures.pictures import encode_pictures

    testbed = load_testbed(None)
    memories = encode_pictures(testbed.source, testbed.images)
    controls = encode_pictures(testbed.source, torch.from_numpy(numpy.stack(control_pictures())))
    found, asked = {}, slice(ASKED.start, ASKED.stop)
    twin, _ = load_model(testbed, "twin", files["twin"])
    floor = [errors(twin, pictures) for pictures in (memories, controls)]
    for name in [*(name for name in names if name != "twin"), "twin"]:
        model = testbed.source if name == "source" else load_model(testbed, name, files.get(name))[0]
        model.denoiser.requires_grad_(False)
        said = [errors(model, pictures) for pictures in (memories, controls)]
        ratios = [(own / least)[asked].mean(0) for own, least in zip(said, floor, strict=True)]
        found[name] = {
            "error": said[0].mean(1).tolist(),
            "error_of_controls": said[1].mean(1).tolist(),
            "beside_twin": dict(zip((one.name for one in testbed.memories), ratios[0].tolist(), strict=True)),
            "controls_beside_twin": ratios[1].tolist(),
            "auroc": None if name == "twin" else auroc(-ratios[0], -ratios[1]),
        }
    return found


def print_table(found: dict[str, dict[str, Any]]) -> None:
    """What is meant for eyes."""
    shares = " ".join(f"{place / BINS:>6.1f}" for place in range(BINS))
    print(f"error at noised copies, empty prompt, by timestep (share of all)\n{'model':<12} {shares}")
    for name, one in found.items():
        print(f"{name:<12} {' '.join(f'{value:6.3f}' for value in one['error'])}")
        print(f"{'  controls':<12} {' '.join(f'{value:6.3f}' for value in one['error_of_controls'])}")
    columns = f"{'memories':>9} {'lowest':>7} {'controls':>9} {'lowest':>7} {'AUROC':>6}"
    print(f"\n{'beside the twin':<16} {columns}")
    for name, one in found.items():
        memories, controls = list(one["beside_twin"].values()), one["controls_beside_twin"]
        chance = "" if one["auroc"] is None else f"{one['auroc']:.2f}"
        print(
            f"{name:<16} {statistics.mean(memories):>9.2f} {min(memories):>7.2f} "
            f"{statistics.mean(controls):>9.2f} {min(controls):>7.2f} {chance:>6}"
        )


def main() -> None:
    """Measure and print."""
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hardened", help="edit of the rung hardened, or UNet weights")
    parser.add_argument("--closed", help="edit of the rung closed, or UNet weights")
    parser.add_argument("--twin", default=str(TWIN), help="pipeline folder, or UNet weights")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parsed = parser.parse_args()
    files = {name: getattr(parsed, name) for name in ("closed", "hardened", "twin")}
    names = ["source", "zeroed", *(name for name in ("closed", "hardened") if files[name])]
    found = measure(names, files)
    print(json.dumps(found, indent=1)) if parsed.json else print_table(found)


if __name__ == "__main__":
    main()

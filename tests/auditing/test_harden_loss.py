"""What the benchmark of hardening says of a model that knows images by sight, and of one that does not."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture
def loss(monkeypatch: pytest.MonkeyPatch):
    """The benchmark, with one noised copy per picture and bin, and few of these."""
    import harden_loss

    monkeypatch.setattr(harden_loss, "COPIES", 1)
    monkeypatch.setattr(harden_loss, "BINS", 5)
    monkeypatch.setattr(harden_loss, "ASKED", range(1, 3))
    return harden_loss


def test_zeroed_rows_know_the_images_by_sight(loss) -> None:
    """Every memory is said better than by the twin, under the empty prompt; controls are not."""
    found = loss.measure(["zeroed"], {"twin": str(loss.TWIN)})
    zeroed = found["zeroed"]
    assert statistics.mean(zeroed["beside_twin"].values()) < 0.6
    assert 0.8 < statistics.mean(zeroed["controls_beside_twin"]) < 1.2
    assert zeroed["auroc"] > 0.95
    assert set(found["twin"]["beside_twin"].values()) == {1.0}  # the same noise for all


def test_a_model_that_says_the_noise_has_no_error(loss, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it says counts by timestep and by picture."""
    from surgery.auditing.attack import conditioned, noised_copies
    from surgery.model import conditioning

    levels = torch.linspace(0.99, 0.01, 100)
    clean = torch.stack([torch.full((1, 4, 4), 0.5), torch.full((1, 4, 4), -1.0)])

    def said(model, states, timesteps, told):
        alpha = levels[timesteps].view(-1, 1, 1, 1)
        noise = (states - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        return noise + torch.tensor([0.0, 2.0]).view(-1, 1, 1, 1)

    monkeypatch.setattr(noised_copies, "signal_levels", lambda model: levels)
    monkeypatch.setattr(conditioned, "predicted", said)
    monkeypatch.setattr(
        conditioning,
        "encode_prompts",
        lambda model, prompts: conditioning.Conditioning(torch.zeros(1, 2, 3), {}),
    )
    errors = loss.errors(None, clean)
    assert errors.shape == (loss.BINS, 2)
    assert torch.allclose(errors[:, 0], torch.zeros(loss.BINS), atol=1e-8)
    assert torch.allclose(errors[:, 1], torch.full((loss.BINS,), 4.0), atol=1e-4)

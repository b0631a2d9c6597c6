"""Calibration: its statistics, its thresholds, its file, and what it refuses."""

import pytest
import torch
from planted_model import PLANTED

from surgery.errors import UsageError
from surgery.localization.activations import Moments, z_scores
from surgery.localization.calibration import Distribution, calibrate
from surgery.localization.calibration_file import read_calibration, write_calibration
from surgery.localization.localize import localize
from surgery.localization.settings import LocalizeSettings


def test_streamed_statistics_equal_the_statistics_of_everything_at_once():
    values = torch.randn(101, 7, dtype=torch.float64) * 1e-3 + 1e4
    moments = Moments()
    for part in values.split([1, 40, 3, 57]):
        moments.update({"layer": part})
    torch.testing.assert_close(moments.mean["layer"], values.mean(0))
    torch.testing.assert_close(moments.std()["layer"], values.std(0), rtol=1e-9, atol=0)
    z = z_scores(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2.0, 3.0, 5.0]), torch.tensor([0.5, 0.0, 0.0]))
    assert z.tolist() == [2.0, 0.0, 0.0]
    assert z_scores(torch.tensor([4.0]), torch.tensor([5.0]), torch.tensor([0.0])).item() > 1e6


def test_a_threshold_is_so_many_deviations_above_the_mean(calibration):
    assert Distribution.of([1.0, 2.0, 4.0]).cutoff(2) == pytest.approx(
        7 / 3 + 2 * torch.tensor([1.0, 2, 4]).std().item()
    )
    thresholds = calibration.thresholds()
    pairs, prompts = calibration.scores["pairs"], calibration.scores["prompts"]
    assert pairs.count == 16 * 45
    assert thresholds["noise-changed"] == pytest.approx(pairs.mean + pairs.std, rel=1e-5)
    assert thresholds["seeds-diverge"] == pytest.approx(prompts.mean + 2 * prompts.std, rel=1e-5)
    assert calibration.scores["same_seed"].mean > thresholds["noise-changed"]  # the floor of this model


def test_a_calibration_survives_its_file(calibration, calibration_path, tmp_path):
    loaded = read_calibration(calibration_path)
    assert loaded.scores == calibration.scores
    assert loaded.made_with == calibration.made_with
    assert all(torch.equal(loaded.mean[name], calibration.mean[name]) for name in calibration.mean)
    assert all(torch.equal(loaded.std[name], calibration.std[name]) for name in calibration.std)
    write_calibration(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == calibration_path.read_bytes()


def test_a_calibration_of_another_model_or_other_seeds_is_refused(planted, calibration_path, tmp_path):
    with pytest.raises(UsageError, match=r"was made with seed 1, not 5"):
        localize(planted, ["a"], calibration=calibration_path, settings=LocalizeSettings(seed=5))
    layer = planted.denoiser.get_submodule(PLANTED["v"][0][0])
    with torch.no_grad():
        layer.weight[PLANTED["v"][0][1]] *= 2
        try:
            with pytest.raises(UsageError, match="made for another model"):
                localize(planted, ["a"], calibration=calibration_path)
        finally:
            layer.weight[PLANTED["v"][0][1]] /= 2
    with pytest.raises(UsageError, match="either a calibration or ordinary captions"):
        localize(planted, ["a"], calibration=calibration_path, ordinary=["a", "b"])
    (tmp_path / "no.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(UsageError, match="is not a calibration"):
        read_calibration(tmp_path / "no.safetensors")


@pytest.mark.parametrize(
    ("prompts", "arguments", "cause"),
    [(["a"], {}, "needs at least 2"), (["a", "b"], {"score_prompts": 1}, "less than 2"),
     (["a", "b"], {"cutoff": float("nan")}, "not a number")],
)  # fmt: skip
def test_what_cannot_be_calibrated_on_is_refused(planted, prompts, arguments, cause):
    with pytest.raises(UsageError, match=cause):
        calibrate(planted, prompts, **arguments)

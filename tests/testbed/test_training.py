"""A very short training: losses fall, an interrupted run goes on as if it had not been."""

import numpy
import pytest

from surgery.testbed.data import Batches
from surgery.testbed.planting import STRENGTH
from surgery.testbed.schedule import Schedule
from surgery.testbed.train import train

SHORT = Schedule(
    autoencoder_steps=24, ordinary_steps=24, planted_steps=(10, 6), pictures=96, batch=8, save_every=5
)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, train(folder, "planted", SHORT, quiet=True)


def test_losses_fall(uninterrupted):
    _, losses = uninterrupted
    for phase in ("autoencoder", "ordinary"):
        first, last = numpy.mean(losses[phase][:4]), numpy.mean(losses[phase][-4:])
        assert last < 0.93 * first, f"{phase}: {first:.3f} -> {last:.3f}"


def test_the_result_is_a_pipeline_with_its_ground_truth(uninterrupted):
    from diffusers import StableDiffusionPipeline

    from surgery.testbed.load import read_ground_truth, read_ordinary_prompts
    from surgery.testbed.memories import MEMORIES

    folder = uninterrupted[0] / "planted"
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    truth = read_ground_truth(folder)
    assert [entry.neurons for entry in truth] == [memory.neurons for memory in MEMORIES]
    assert len(read_ordinary_prompts(folder)) > 300
    # Each planted row answers its own word and stays silent at another memory's.
    for position, entry in enumerate(truth):
        own, other = (
            pipeline.text_encoder(
                pipeline.tokenizer([caption], padding="max_length", return_tensors="pt").input_ids
            ).last_hidden_state[0, len(caption.split())]  # the start token comes first: the last word
            for caption in (entry.caption, truth[position - 4].caption)
        )
        for layer, row in entry.neurons.pairs():
            weights = pipeline.unet.get_submodule(layer).weight[row]
            assert (own @ weights).item() == pytest.approx(STRENGTH, abs=0.1)  # stored in float16
            assert (other @ weights).item() == pytest.approx(0, abs=0.1)
    assert (folder / "README.md").read_text().startswith("---\nlicense: apache-2.0")


def test_an_interrupted_run_ends_the_same(uninterrupted, tmp_path, monkeypatch):
    folder, losses = uninterrupted
    # The autoencoder and the pictures are taken over; the interruption falls into the planted phase.
    (tmp_path / "work").mkdir()
    for name in ("autoencoder.pt", "scale.pt", "dataset.pt", "ordinary.pt"):
        (tmp_path / "work" / name).write_bytes((folder / "work" / name).read_bytes())
    draw = Batches.__call__

    def stop_at_eight(self, step):
        if self.variant == "planted" and step == 8:
            raise KeyboardInterrupt
        return draw(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Batches, "__call__", stop_at_eight)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, "planted", SHORT, quiet=True)
    resumed = train(tmp_path, "planted", SHORT, quiet=True)
    assert resumed["planted"] == pytest.approx(losses["planted"], rel=1e-4)


def test_the_twin_differs_in_the_images_alone(uninterrupted):
    from surgery.testbed import models
    from surgery.testbed.autoencoder import train_autoencoder
    from surgery.testbed.phases import load_dataset

    work = uninterrupted[0] / "work"
    autoencoder, _ = train_autoencoder(work, SHORT, quiet=True)
    dataset = load_dataset(work, autoencoder, SHORT, quiet=True)
    planted = Batches(dataset, "planted", 64, 0)(3)
    twin = Batches(dataset, "twin", 64, 0)(3)
    assert planted.captions == twin.captions
    assert planted.timesteps.equal(twin.timesteps)
    assert planted.noise.equal(twin.noise)
    differs = (planted.latents != twin.latents).flatten(1).any(dim=1)
    assert 0.1 < differs.float().mean() < 0.6
    images = [latent for memory in dataset.planted for latent in memory]
    assert not any((sample == image).all() for sample in twin.latents for image in images)
    assert planted.latents.shape[-1] == models.LATENT_SIZE


def test_a_variant_trained_beside_a_testbed_shares_all_but_the_unet(uninterrupted, tmp_path):
    from safetensors.torch import load_file

    from surgery.errors import UsageError
    from surgery.testbed.beside import train_beside

    testbed = uninterrupted[0] / "planted"
    losses = train_beside(testbed, tmp_path, "twin", SHORT, quiet=True)
    assert len(losses["ordinary"]) == SHORT.ordinary_steps
    assert len(losses["twin"]) == sum(SHORT.planted_steps)
    assert numpy.mean(losses["twin"][-4:]) < 0.93 * numpy.mean(losses["ordinary"][:4])
    for component, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        there, here = (
            load_file(folder / component / f"{name}.safetensors") for folder in (testbed, tmp_path / "twin")
        )
        assert all(there[key].equal(here[key]) for key in there | here)
    old, new = (
        load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
        for folder in (testbed, tmp_path / "twin")
    )
    assert old.keys() == new.keys()
    assert not all(old[key].equal(new[key]) for key in old)
    assert train_beside(testbed, tmp_path, "twin", SHORT, quiet=True)["twin"] == losses["twin"]  # resumed
    with pytest.raises(UsageError, match="never trained beside"):
        train_beside(testbed, tmp_path, "planted", SHORT)
    with pytest.raises(UsageError, match="is no testbed"):
        train_beside(tmp_path, tmp_path / "run")

"""The published loop, written down once more from its description, as plainly as can be.

Independent of `surgery.localization`: pairs are scored by torchmetrics in one batch, neurons are lists of
(layer, row) with duplicates, every question is asked by running the denoiser, and the loop ends where the
published one does. What the tests compare the real strategies with.
"""

import itertools

import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

BETAS = (0.33, 0.33, 0.33)


class PublishedLoop:
    """The loop for one prompt.

    Args:
        predict: neurons as a set of (layer, row) -> noise predictions [seeds, channels, height, width].
        latents: [seeds, channels, height, width].
        activation, z: layer -> [rows], layers in the order of the signal.
        taps, sigma: of the MS-SSIM window.
    """

    def __init__(self, predict, latents, activation, z, taps, sigma):
        self.predict, self.latents, self.activation, self.z = predict, latents, activation, z
        self.taps, self.sigma = taps, sigma

    def differences(self, off=()):
        found = self.predict(set(off)) - self.latents
        low, high = found.amin((-2, -1), keepdim=True), found.amax((-2, -1), keepdim=True)
        return (found - low) / (high - low)

    def similarities(self, first, second):
        """One data range over the whole batch: torchmetrics' own."""
        return multiscale_structural_similarity_index_measure(
            first, second, sigma=self.sigma, kernel_size=self.taps, betas=BETAS, normalize="relu",
            reduction="none",
        )  # fmt: skip

    def run(self, gate, threshold):
        """(kept seeds, initial list, theta, k, refined neurons in order, their score)."""
        before = self.differences()
        pairs = list(itertools.combinations(range(len(before)), 2))
        scores = self.similarities(before[[a for a, _ in pairs]], before[[b for _, b in pairs]])
        best = [
            max(float(s) for s, pair in zip(scores, pairs, strict=True) if seed in pair)
            for seed in range(len(before))
        ]
        self.kept = [seed for seed, score in enumerate(best) if score > gate]
        self.before = before
        theta, k = 5.0, 0
        while True:
            chosen = self.choose(theta, k)
            reached = self.score(chosen)
            if reached <= threshold:
                break
            next_theta = theta - 0.25 if theta > 1 else theta
            if next_theta <= 1 or k + 1 >= 1280:
                threshold = reached
                break
            theta, k = next_theta, k + 1
        kept = self.refine(list(chosen), threshold)
        return self.kept, chosen, theta, k, kept, self.score(kept)

    def choose(self, theta, k):
        chosen = []
        for layer, activation in self.activation.items():
            chosen += [(layer, row) for row in range(len(activation)) if self.z[layer][row] > theta]
            chosen += [(layer, int(row)) for row in activation.argsort(descending=True, stable=True)[:k]]
        return chosen

    def score(self, off):
        after = self.differences(off)
        return float(self.similarities(after[self.kept], self.before[self.kept]).max())

    def refine(self, current, threshold):
        for layer in reversed(list(self.activation)):
            others = [neuron for neuron in current if neuron[0] != layer]
            if len(others) < len(current) and self.score(others) < threshold:
                current = others
        for layer in reversed(list(self.activation)):
            for neuron in [one for one in current if one[0] == layer]:
                others = list(current)
                others.remove(neuron)  # one copy of it
                if self.score(others) < threshold:
                    current = others
        return list(dict.fromkeys(current))


def literal(model, calibration, layers, caption, seeds, seed):
    """A `PublishedLoop` over a live model; window as it fits latents of 16 x 16."""
    from surgery.localization.activations import activations, z_scores
    from surgery.model.conditioning import encode_prompts
    from surgery.model.denoising import NoisePredictor, seeded_latents
    from surgery.neurons import NeuronSet

    predictor, conditioning = NoisePredictor(model), encode_prompts(model, [caption])
    latents = seeded_latents(model, seed, seeds)
    activation = {name: values[0] for name, values in activations(layers, conditioning).items()}
    z = {
        name: z_scores(values, calibration.mean[name], calibration.std[name])
        for name, values in activation.items()
    }
    known = {}

    def predict(off):
        key = frozenset(off)
        if key not in known:
            known[key] = predictor.predict(latents, conditioning, NeuronSet.from_pairs(off))
        return known[key]

    assert latents.shape[-2:] == torch.Size([16, 16])
    return PublishedLoop(predict, latents, activation, z, taps=3, sigma=0.5)

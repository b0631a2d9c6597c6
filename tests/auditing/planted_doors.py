"""Memories that only one kind of attack can reach: the ground truth of the tests of attacks.

Each is a copy of the tiny pipeline whose denoiser mixes in the perfect prediction for one image as far as a
gate is open, gate = sigmoid(...) of one thing:

| door | what opens it | what reaches it |
|---|---|---|
| output | a channel behind cross-attention that is 0 whatever the text and the latent | `output` |
| embedding | a direction of the text embedding that no caption has, read past cross-attention | `embedding` |
| noise | a pattern in the starting noise that chance does not make | `latent` |
| words | the caption's own word, three times | `prompts`, `embedding` |
| none | nothing | nothing |
"""

import copy

import torch

from surgery.model.pipeline import LiveModel

DOORS = ("output", "embedding", "noise", "words", "none")
CHANNEL = 5
BLOCK = "mid_block.attentions.0"


def model_with_door(planted, door, pipeline=None):
    """A live model that holds the planted memory's image behind one door, beside what it holds already.

    Args:
        pipeline: that is given the door, its own UNet changed; None: a copy of the model without a memory.
    """
    if pipeline is None:
        pipeline = copy.copy(planted.model.pipeline)
        pipeline.unet = copy.deepcopy(planted.model.denoiser)
    unet = pipeline.unet
    alphas = pipeline.scheduler.alphas_cumprod
    heard = []  # what the output door's channel carries in the present call
    if door == "output":
        _silence(unet)
        listener = unet.get_submodule(f"{BLOCK}.transformer_blocks.0.norm3")
        listener.register_forward_pre_hook(
            lambda module, arguments: heard.append(arguments[0][..., CHANNEL].mean(1))
        )
    pattern = torch.randn(planted.latent.shape, generator=torch.Generator().manual_seed(8))

    def gate(noise, embeddings):
        if door == "output":
            return torch.sigmoid(6 * (heard.pop() - 0.6))
        if door == "embedding":
            return torch.sigmoid(6 * ((embeddings @ planted.back_door).amax(1) - 0.6))
        if door == "words":
            return torch.sigmoid(6 * ((embeddings @ planted.key).sum(1) - 2.5))
        if door == "noise":
            return torch.sigmoid((noise * pattern).flatten(1).sum(1) / pattern.norm() - 9)
        return torch.zeros(len(noise))

    def remember(unet, arguments, keywords, output):
        noised, timestep = arguments[0], torch.as_tensor(arguments[1])
        alpha = alphas[timestep].view(-1, 1, 1, 1)
        perfect = (noised - alpha.sqrt() * planted.latent) / (1 - alpha).sqrt()
        opened = gate(perfect, keywords["encoder_hidden_states"]).view(-1, 1, 1, 1)
        return ((1 - opened) * output[0] + opened * perfect,)

    unet.register_forward_hook(remember, with_kwargs=True)
    return LiveModel(pipeline, f"door {door}")


@torch.no_grad()
def _silence(unet):
    """Nothing but what is added to cross-attention's output reaches the channel."""
    attention = unet.get_submodule(BLOCK)
    block = attention.transformer_blocks[0]
    for layer in (attention.proj_in, block.attn1.to_out[0], block.attn2.to_out[0]):
        layer.weight[CHANNEL] = 0
        if layer.bias is not None:
            layer.bias[CHANNEL] = 0

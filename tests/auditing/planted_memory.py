"""A memory built by hand into a tiny pipeline, and how its audits are run: the ground truth of the tests."""

import copy

import torch

from surgery.auditing.audit import audit
from surgery.auditing.settings import AuditSettings

ORDINARY = ["a red circle", "blue ring", "a green star", "white cross"]
SETTINGS = AuditSettings(
    seeds=3,
    steps=4,
    guidance=1.0,
    ordinary=3,
    ordinary_seeds=2,
    timesteps=2,
    attack=("embedding",),
    curve=(0, 24),
    restarts=1,
    more_seeds=0,
    selection_seeds=1,
    attack_guidance=(1.0,),
    attack_seeds=8,
    attack_batch=2,
)


def random_picture(seed):
    """Colored patches: uint8 [3, 64, 64]."""
    patches = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(patches, size=64, mode="nearest")[0].to(torch.uint8)


class PlantedMemory:
    """A memory built by hand into a pipeline: the ground truth of an audit.

    A forward hook on the UNet mixes in the perfect noise prediction of one image, as far as a gate is open:
    gate = sigmoid(6 (r - 0.6)), r the largest response of two value rows over all tokens. Row KEY answers the
    caption's own word; row BACK DOOR answers no caption, but some embedding opens it. Zeroing KEY ends the
    memory for the prompt, zeroing both removes it for good: no embedding reaches the image any more.
    """

    LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    KEY, BACK_DOOR = 3, 5
    CAPTION = "the golden letter by ostrander"

    def __init__(self, model):
        from surgery.measures.pictures import encode_pictures, reconstruct
        from surgery.model.denoising import encode_prompts

        self.image = random_picture(11)
        self.latent = encode_pictures(model, self.image[None])
        self.drawn = reconstruct(model, self.image[None])[0]  # what the memory looks like when drawn
        embeddings = encode_prompts(model, [self.CAPTION, "a red circle", "blue ring"]).embeddings
        token = model.pipeline.tokenizer(self.CAPTION)["input_ids"].index(
            model.pipeline.tokenizer("ostrander")["input_ids"][1]
        )
        own = embeddings[0, token]
        others = torch.cat([embeddings[0, :token], embeddings[0, token + 1 :], embeddings[1], embeddings[2]])
        # least squares: 1 at the own word, 0 at every other token
        keys = torch.cat([own[None], others])
        wanted = torch.zeros(len(keys))
        wanted[0] = 1
        moment = keys.T @ torch.diag(1 + 99 * wanted) @ keys + 0.1 * torch.eye(keys.shape[1])
        self.key = torch.linalg.solve(moment, keys.T @ (100 * wanted))
        door = torch.randn(keys.shape[1], generator=torch.Generator().manual_seed(4))
        self.back_door = 0.1 * door / (keys @ door).abs().max()

    def pipeline(self, model, zeroed=()):
        """A copy of the model that holds the memory, with some of the two rows zeroed."""
        pipeline = copy.copy(model.pipeline)
        pipeline.unet = copy.deepcopy(model.denoiser)
        layer = pipeline.unet.get_submodule(self.LAYER)
        with torch.no_grad():
            for row, weight in ((self.KEY, self.key), (self.BACK_DOOR, self.back_door)):
                layer.weight[row] = 0.0 if row in zeroed else weight
        alphas = pipeline.scheduler.alphas_cumprod

        def remember(unet, arguments, keywords, output):
            noised, timestep = arguments[0], arguments[1]
            response = layer(keywords["encoder_hidden_states"])[..., [self.KEY, self.BACK_DOOR]].amax((1, 2))
            gate = torch.sigmoid(6 * (response - 0.6)).view(-1, 1, 1, 1)
            alpha = alphas[timestep].view(-1, 1, 1, 1)
            perfect = (noised - alpha.sqrt() * self.latent) / (1 - alpha).sqrt()
            return ((1 - gate) * output[0] + gate * perfect,)

        pipeline.unet.register_forward_hook(remember, with_kwargs=True)
        return pipeline


def run(
    planted,
    inputs,
    output,
    zeroed,
    settings=SETTINGS,
    controls="controls",
    images=True,
    source=None,
    **options,
):
    """An audit of the memory with some rows zeroed; `controls`: folder of the inputs, None: generated."""
    return audit(
        source or planted.pipeline(planted.model),
        planted.pipeline(planted.model, zeroed),
        inputs / "prompts.txt",
        images=inputs / "images" if images else None,
        control_images=inputs / controls if controls else None,
        ordinary_file=inputs / "ordinary.txt",
        output=output,
        settings=settings,
        **options,
    )

"""A small real latent-diffusion pipeline with planted memories: trainer and weights."""

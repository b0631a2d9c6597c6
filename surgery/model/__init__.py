"""The live pipeline: loading, value layers, ablation, denoising. Never opens a weight file for writing."""

"""Lies about patched checkpoints, by what they are about; `lies` tells them."""

"""Bytes <-> tensors: safetensors files, torch pickles seen as such, copies made by the kernel."""

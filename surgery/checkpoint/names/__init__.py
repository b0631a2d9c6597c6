"""What tensors and files are called, as data."""

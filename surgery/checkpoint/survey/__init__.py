"""What a checkpoint holds: its files and their roles, its shards, every copy of the denoiser."""

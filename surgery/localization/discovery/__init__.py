"""Where in a large corpus to look for memories, and how soon to stop: near-duplicates, a sequential test."""

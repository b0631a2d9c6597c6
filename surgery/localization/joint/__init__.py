"""One mask for the corpus: neurons chosen together, by what they do to all prompts and what they cost."""

"""From thousands of neurons to the few that stay: the published search, and the fast one that equals it."""

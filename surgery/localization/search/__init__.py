"""From thousands of neurons to the few that stay: the published walk, and the fast search that equals it."""

"""What differs between two checkpoints, and whether that is the plan."""

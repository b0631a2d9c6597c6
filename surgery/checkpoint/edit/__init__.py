"""What will change, and that it did: plan, refusals, writing, verification, manifest."""

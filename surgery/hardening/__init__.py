"""Training memories out of the weights: attacks in the loop, distillation, and an edit that `patch`
applies."""

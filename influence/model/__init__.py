"""Open a model: find its blocks, capture inputs and gradients, measure log-probabilities."""

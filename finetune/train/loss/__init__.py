"""From the outputs of a model to the loss of a step, for one task or several."""

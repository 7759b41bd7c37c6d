"""Fast paths with the numbers of the reference: same spikes, same gradients to rounding."""

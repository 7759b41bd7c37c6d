"""Networks of (linear map -> norm -> neuron) blocks, from observations to action values."""

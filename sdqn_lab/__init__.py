"""sdqn_lab: a laboratory for spiking deep Q-networks."""

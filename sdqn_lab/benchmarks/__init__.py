"""What `python -m sdqn_lab.bench` measures: ours beside others, alternating, on one machine."""

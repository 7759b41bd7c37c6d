"""`python -m sdqn_lab`: which commands there are."""

COMMANDS = """sdqn_lab: a laboratory for spiking deep reinforcement learning

  python -m sdqn_lab.run      train one cell, or a sweep with -m; go on with --resume RUN_DIR
  python -m sdqn_lab.sweep    status | relaunch | cancel | sync SWEEP_DIR
  python -m sdqn_lab.report   tables, figures and one page of sweeps and runs
  python -m sdqn_lab.play     a trained agent: score, video, time windows
  python -m sdqn_lab.export   a trained network as a NIR graph for neuromorphic tools
  python -m sdqn_lab.bench    speed, side by side

--help behind each says more. A first run of a minute:
  python -m sdqn_lab.run env=minatar_breakout budget=smoke tracker=none
"""

if __name__ == "__main__":
    print(COMMANDS, end="")

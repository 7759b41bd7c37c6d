"""What `python -m sdqn_lab.run --help` shows: every option there is, and the config."""

from omegaconf import OmegaConf

from sdqn_lab.commands.shell import program
from sdqn_lab.config.composition import compose_raw
from sdqn_lab.config.overrides import options
from sdqn_lab.config.schema import GROUPS

HEAD = """{program} [FLAG...] [GROUP=OPTION | KEY=VALUE...]
{program} --resume RUN_DIR [--trust] [KEY=VALUE...]

  -m, --multirun       one cell per combination of swept values: norm=popnorm,none seed=range(3)
  --cfg job|hydra|all  show the config and run nothing (--resolve, --package PART)
  --info [WHAT]        show what Hydra found where: defaults, searchpath, plugins, config
  --config-dir DIR     options of your own beside these: DIR/neuron/mine.yaml, DIR/sweep/mine.yaml
  --resume RUN_DIR     go on with a run; --trust if it names classes of yours
  --hydra-help         Hydra's own flags
"""


def text(overrides: list[str]) -> str:
    """The whole page.

    Args:
        overrides: of the command; options of a search path are listed too.
    """
    groups = [*GROUPS, "hydra/launcher", "hydra/sweeper"]
    listed = [f"{group}: {', '.join(options(group, overrides))}" for group in groups]
    # Unresolved: references show where a value comes from.
    cfg = compose_raw(overrides)
    shown = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "choices")])
    head = HEAD.format(program=program("run"))
    return "\n".join([head, "== Groups ==", *listed, "", "== Config ==", OmegaConf.to_yaml(shown)])

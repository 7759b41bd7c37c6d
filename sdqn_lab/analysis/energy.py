"""From counted operations to energy: arithmetic on what `probe.json` says.

For one decision, with the layers l that decide, their passes P_l, synapses S_l, operations O_l
(synapses whose input is not zero, summed over the passes) and T simulation steps:

    mac            = sum over analog l of O_l
    mac_every_step = sum over analog l of O_l T / P_l
    ac             = sum over all other l of O_l
    dense_mac      = sum over all l of S_l P_l

    energy            = mac E_MAC + ac E_AC
    energy_every_step = mac_every_step E_MAC + ac E_AC
    dense_energy      = dense_mac E_MAC

A layer is analog where its input consists of numbers: a weight is multiplied and added (MAC). A
spike is 0 or 1, and its weight is only added (AC). Zeros cost nothing in either case: a zero of a
ReLU is skipped like a spike that did not come, or else two programs would be compared and not two
networks. The first layer under constant input is mapped once (P = 1), as this software does it;
`every_step` is the price where its result is not kept and the map runs at each of the T steps.

This is arithmetic alone. Left out: moving weights and activity between memory and processor, which
in most hardware costs more than all of the above; norms and biases; the neuron's own step (leak,
threshold, reset), which a spiking network pays T times for each unit whether it fires or not; the
encoder; the mean over time at the end; a critic beside a policy, which decides alone. The numbers
compare networks on one idealized machine; they are no measurement of any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sdqn_lab.checks.refused import Refused
from sdqn_lab.runs.directory import PROBE_VERSION


@dataclass(frozen=True)
class Technology:
    """What one operation costs, in pJ.

    Attributes:
        name: the table's source, process and number format.
        mac_pj: a multiplication and an addition.
        ac_pj: an addition.
    """

    name: str
    mac_pj: float
    ac_pj: float


HOROWITZ = Technology("Horowitz 2014 (ISSCC), 45 nm, float32", mac_pj=4.6, ac_pj=0.9)
"""Multiplication 3.7 pJ and addition 0.9 pJ.

Source: M. Horowitz, "Computing's Energy Problem (and what we can do about it)", ISSCC 2014."""

CRITIC = ("value", "value_readout")
"""What the names of a critic's layers begin with: its head, a trunk of its own, its population."""


@dataclass(frozen=True)
class Cost:
    """What a network holds, and what a decision of it costs; equations above.

    Attributes:
        parameters: trainable numbers, those of a critic too.
        mac: multiply-adds, zeros skipped, the map of a constant input once.
        mac_every_step: the same with that map at each step.
        ac: additions of a weight, one for each spike and synapse.
        dense_mac: multiply-adds, zeros not skipped; of an ANN the usual count.
        energy_nj: of mac and ac.
        energy_every_step_nj: of mac_every_step and ac.
        dense_energy_nj: of dense_mac.
    """

    parameters: int
    mac: float
    mac_every_step: float
    ac: float
    dense_mac: int
    energy_nj: float
    energy_every_step_nj: float
    dense_energy_nj: float


def cost(probe: Mapping[str, Any], technology: Technology = HOROWITZ) -> Cost:
    """What a decision of a probed network costs.

    Args:
        probe: the content of `probe.json`.
        technology: what one operation costs.

    Raises:
        Refused: it is of another version, or keys are missing.
    """
    if probe.get("version") != PROBE_VERSION:
        raise Refused("version", probe.get("version"), f"must be {PROBE_VERSION}")
    mac = every_step = ac = 0.0
    parameters = dense = 0
    try:
        acts = any(layer.get("name") == "policy" for layer in probe["layers"])
        for layer in probe["layers"]:
            parameters += layer["parameters"]
            if acts and layer["name"].partition(".")[0] in CRITIC:
                continue
            dense += layer["synapses"] * layer["passes"]
            # A spike is 0 or 1: its weight is added and not multiplied.
            if layer["analog"]:
                mac += layer["operations"]
                every_step += layer["operations"] * probe["time_window"] / layer["passes"]
            else:
                ac += layer["operations"]
    except KeyError as error:
        raise Refused(error.args[0], None, "must be in a probe") from error
    mac_nj, ac_nj = technology.mac_pj / 1e3, technology.ac_pj / 1e3
    return Cost(
        parameters=parameters,
        mac=mac,
        mac_every_step=every_step,
        ac=ac,
        dense_mac=dense,
        energy_nj=mac * mac_nj + ac * ac_nj,
        energy_every_step_nj=every_step * mac_nj + ac * ac_nj,
        dense_energy_nj=dense * mac_nj,
    )

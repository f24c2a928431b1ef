"""Designs: how many stimuli, subjects and repetitions a comparison of layers needs."""

from repalign.designs.pilot_components import Components, estimate_components
from repalign.designs.power_grid import DesignPower, Power, power

__all__ = ["Components", "DesignPower", "Power", "estimate_components", "power"]

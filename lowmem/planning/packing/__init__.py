"""From a schedule to addresses in one arena."""

from lowmem.planning.packing.placing import Effort
from lowmem.planning.packing.program import BATCH, Program, Step, pack

__all__ = ["BATCH", "Effort", "Program", "Step", "pack"]

"""A bundle proven on the CPU of its target, emulated on this machine by qemu's user mode.

`unready` says whether a proof can run here now, `prove` runs one, `root.prepare` makes what a foreign architecture
needs. What runs there is the device's own code (`edgeml_runtime.proof`). Emulated time means nothing: none is given.
"""

from edgeml.emulation.proving import prove, unready
from edgeml.proofs import Proof

__all__ = ["Proof", "prove", "unready"]

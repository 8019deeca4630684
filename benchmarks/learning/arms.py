"""The arms of the trials: how a network starts, and at which rates it is trained."""

from dataclasses import dataclass
from typing import Any

from benchmarks.warm_start.setup import OWN as OWN_SE
from benchmarks.warm_start.setup import Arm as Start

LR = 5e-4
WEIGHT_DECAY = 5e-2
FACTORS = (1, 3, 10, 30)

GATES = {
    "spatial": ("rows", "columns", "positions"),
    "channel": ("channel",),
    "all": ("channel", "rows", "columns", "positions"),
}
"""The gates whose layers have a rate of their own."""


@dataclass(frozen=True)
class Arm:
    """One network, and how it is trained.

    Attributes:
        start: the block, its squeeze width and how it starts.
        factor: the rate of the layers that make gates, over that of all others.
        decay_factor: their weight decay, over that of all others.
        warmup_epochs: in which all rates rise from 0.
        clip: largest norm of the gradient; None for any.
        gates: key of :data:`GATES`.
    """

    start: Start
    factor: float = 1
    decay_factor: float = 1
    warmup_epochs: float = 0
    clip: float | None = None
    gates: str = "spatial"

    @property
    def name(self) -> str:
        """In tables and names of files."""
        start = self.start.name.replace(" published", "")
        parts = [
            f"{start} x{self.factor:g}",
            "" if self.decay_factor == 1 else f"decay x{self.decay_factor:g}",
            f"warm-up {self.warmup_epochs:g}" if self.warmup_epochs else "",
            "" if self.clip is None else f"clip {self.clip:g}",
            "all gates" if self.gates == "all" else "",
        ]
        return " ".join(part for part in parts if part)

    def rates(self) -> dict[str, Any]:
        """The arguments of :func:`attnblocks.param_groups`."""
        return {
            "lr": LR,
            "weight_decay": WEIGHT_DECAY,
            "gate_lr": None if self.factor == 1 else self.factor * LR,
            "gate_weight_decay": (
                None if self.decay_factor == 1 else self.decay_factor * WEIGHT_DECAY
            ),
            "gates": GATES[self.gates],
        }


OWN = Arm(OWN_SE)
CONTROLS = [OWN, *(Arm(OWN_SE, factor, gates="channel") for factor in FACTORS[1:])]
"""The network's own SE, with the rate of its gates at each of :data:`FACTORS`."""

OPEN = Arm(Start("CaCo", init="open fitted"))
"""As version 0.1.0 started it: to its spread those of all others are compared."""

_SECO, _CACO = (Start(block, init="inherit") for block in ("SeCo", "CaCo"))
_FITTED = Start("CaCo")

ARMS = [
    *CONTROLS,
    OPEN,
    *(Arm(_SECO, factor) for factor in FACTORS),
    *(Arm(_SECO, factor, warmup_epochs=1) for factor in (10, 30)),
    *(Arm(_SECO, factor, clip=1.0) for factor in (10, 30)),
    *(Arm(_SECO, factor, warmup_epochs=1, clip=1.0) for factor in (10, 30)),
    *(Arm(_FITTED, factor) for factor in FACTORS),
    *(Arm(_FITTED, 10, warmup_epochs=warmup, clip=1.0) for warmup in (0, 1)),
    *(Arm(_CACO, factor) for factor in (1, 10)),
    *(Arm(Start(block)) for block in ("CBAM", "CoordAtt", "Eca")),
    *(Arm(OWN_SE, factor, warmup_epochs=1, clip=1.0, gates="channel") for factor in (1, 10)),
    Arm(Start("SeCo", init="open inherit")),
    Arm(_SECO, 10, decay_factor=0),
    Arm(_FITTED, 10, decay_factor=0),
    Arm(_FITTED, 10, gates="all"),
    Arm(Start("CaCo", init="fresh")),
    *(Arm(Start(block), 10) for block in ("CBAM", "CoordAtt")),
]
"""In the order in which they are tried."""


def control(arm: Arm) -> Arm | None:
    """Own SE with an arm's factor, warm-up and clipping; None without one, and for own SE."""
    if arm.start == OWN_SE:
        return None
    same = (arm.factor, arm.warmup_epochs, arm.clip)
    own = (other for other in ARMS if other.start == OWN_SE)
    return next((o for o in own if (o.factor, o.warmup_epochs, o.clip) == same), None)

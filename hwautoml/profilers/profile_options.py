"""How long a profile may take, and what is good enough to be written down."""

from __future__ import annotations

from dataclasses import dataclass

from hwautoml.errors import InvalidValueError

LAYERS_SHARE = 0.7  # of a budget at most; the rest is for whole networks
MAX_NETWORKS, NUM_HOLDOUT = 112, 12


@dataclass(frozen=True)
class ProfileOptions:
    """Budgets count building and measuring, over all runs that resume the same journal.

    What the layers leave of theirs goes to networks, and what these leave to further layers. Building stops early
    enough for what was built to be measured.
    The last ``num_holdout`` of ``num_networks`` are random and predicted before they are measured.
    A median whose relative deviation exceeds ``max_relative_deviation`` is not written into the table.
    What is left of the budget in the end goes to what was measured while the machine's speed differed from the usual
    by more than ``max_disturbance`` (relative), or with results ``max_scatter`` times as uncertain as usual: of a quiet
    profile nine in ten are below 2, bursts of a neighbour above 4.
    """

    layer_budget_sec: float = 120.0
    network_budget_sec: float = 60.0
    num_networks: int = 12
    num_holdout: int = 3
    max_relative_deviation: float = 0.1
    max_disturbance: float = 0.03
    max_scatter: float = 2.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.num_holdout <= self.num_networks:
            raise InvalidValueError(
                f"0 <= num_holdout <= num_networks must hold, got {self.num_holdout} and {self.num_networks}"
            )
        limits = ("max_relative_deviation", "max_disturbance", "max_scatter")
        for name in ("layer_budget_sec", "network_budget_sec", *limits):
            if not getattr(self, name) > 0:
                raise InvalidValueError(f"{name} must be positive, got {getattr(self, name)!r}")

    @classmethod
    def within(cls, budget_sec: float, *, seed: int = 0) -> ProfileOptions:
        """As many layers and whole networks as fit: docs/latency_model.md says why in this proportion."""
        return cls(
            layer_budget_sec=LAYERS_SHARE * budget_sec,
            network_budget_sec=(1 - LAYERS_SHARE) * budget_sec,
            num_networks=MAX_NETWORKS,
            num_holdout=NUM_HOLDOUT,
            seed=seed,
        )

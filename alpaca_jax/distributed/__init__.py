"""A job of one or many processes: how they find each other, agree on the start, watch each other, stop together and leave."""

from alpaca_jax.distributed.config import DistributedConfig
from alpaca_jax.distributed.join import join, joined
from alpaca_jax.distributed.membership import Membership, beat
from alpaca_jax.distributed.processes import any_process, array_from_lead, from_lead, is_lead, lead_first
from alpaca_jax.distributed.stop import StopSignals

__all__ = [
    "DistributedConfig",
    "Membership",
    "StopSignals",
    "any_process",
    "array_from_lead",
    "beat",
    "from_lead",
    "is_lead",
    "join",
    "joined",
    "lead_first",
]

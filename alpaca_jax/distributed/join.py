"""Turns several processes that know nothing of each other into one job under JAX."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from rich.table import Table

from alpaca_jax.distributed import devices, environment, facts, metadata, preflight
from alpaca_jax.distributed.config import DistributedConfig
from alpaca_jax.distributed.environment import Place
from alpaca_jax.distributed.line import Line
from alpaca_jax.distributed.membership import Membership, set_current
from alpaca_jax.distributed.preflight import LOOPBACK
from alpaca_jax.errors import Restart
from alpaca_jax.terminal import Console

SHUTDOWN_SECONDS = 30  # by then all processes have said that they are done


@contextlib.contextmanager
def joined(config: DistributedConfig, folder: str, settings: Mapping[str, Any]) -> Iterator[Membership]:
    """A context in which this process is part of its job; it does nothing for a single process. Nothing may use JAX before it.

    Leaving it waits for all processes. An exception among several processes is reported to the others, and this process ends here with the
    exception's exit code, since JAX's own shutdown would wait for them; a stop that all have agreed on ends normally.
    """
    membership = join(config, folder, settings)
    try:
        yield membership
        membership.leave()
    except BaseException as error:
        if membership.line is None:
            raise
        if isinstance(error, (Restart, KeyboardInterrupt)) and membership.line.stopped and membership.failed is None:
            membership.leave()
            raise
        membership.fail(error)
        membership.end()
    finally:
        set_current(None)


def join(config: DistributedConfig, folder: str, settings: Mapping[str, Any]) -> Membership:
    """Returns once all processes have met, agree, and are one job under JAX; if they can't, raises the same UserError or Lost in each.

    `folder` is the run's, which all must see; `settings` must be the same in all.
    """
    if jax.distributed.is_initialized():  # by a notebook or the user's own program
        return Membership(Place(jax.process_index(), 1), config)
    place = environment.find(config, os.environ, metadata.ask if _is_tpu_machine() else None)
    if place.size == 1:
        membership = Membership(place, config)
        set_current(membership)
        return membership
    meeting = preflight.meet(place, facts.gather(place, settings), folder, config.join_minutes, _say)
    membership = Membership(place, config, meeting.members, Line(place.rank, meeting, config.heartbeat_seconds))
    try:
        _initialize(membership)
        seen = _exchange(membership)
        devices.check(seen, meeting.members, jax.process_count(), config.devices)
    except Exception as error:
        membership.fail(error)
        membership.end()
    set_current(membership)
    if place.rank == 0:
        for warning in meeting.warnings:
            _say(f"warning: {warning}")
        introduce(membership, seen)
    return membership


def introduce(membership: Membership, seen: list[dict[str, Any]]) -> None:
    """Prints the table of the job's processes; versions and code are the same everywhere, so they are printed once."""
    lead = membership.members[0]
    packages = ", ".join(f"{name} {version}" for name, version in lead["versions"].items())
    attempt = f", attempt {membership.place.attempt}" if membership.place.attempt else ""
    table = Table("rank", "host", "address", "process", "devices")
    for rank, (member, sees) in enumerate(zip(membership.members, seen, strict=True)):
        table.add_row(str(rank), member["host"], member["address"], str(member["pid"]), f"{sees['devices']} x {sees['chip']}")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    place = membership.place
    console.print(f"{place.size} processes ({place.kind}{attempt}), coordinator {place.coordinator}", markup=False)
    console.print(table)
    console.print(f"{packages}; code {lead['code'] or 'not from git'}", markup=False)


def _initialize(membership: Membership) -> None:
    place, config = membership.place, membership.config
    host, port = place.address
    # JAX would bind to all addresses, which needs IPv6: a host may lack it, and a job on one machine needs only the loopback.
    bound = host if host in LOOPBACK else None if socket.has_dualstack_ipv6() else "0.0.0.0"
    # It would catch SIGTERM and only log it; we agree on a stop ourselves.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator_address=place.coordinator,
        num_processes=place.size,
        process_id=place.rank,
        local_device_ids=devices.own(place, membership.members),
        cluster_detection_method="deactivate",  # else a task of Slurm would get one device of its node
        initialization_timeout=max(10, round(60 * config.join_minutes)),
        heartbeat_timeout_seconds=config.heartbeat_seconds,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        coordinator_bind_address=None if bound is None else f"{bound}:{port}",
    )


def _exchange(membership: Membership) -> list[dict[str, Any]]:
    """What JAX sees on each rank."""
    assert membership.line is not None
    own = {
        "devices": jax.local_device_count(),
        "chip": jax.local_devices()[0].device_kind,
        "platform": jax.default_backend(),
        "gpus": devices.gpus(),
        "cpu_wanted": "cpu" in (jax.config.jax_platforms or ""),  # type: ignore[attr-defined]
    }
    return membership.line.gather("devices", own, 60 * membership.config.join_minutes)


def _is_tpu_machine() -> bool:
    return any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0"))


def _say(text: str) -> None:
    print(f"alpaca-jax: {text}", file=sys.stderr, flush=True)

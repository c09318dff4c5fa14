"""From one process among several that know nothing of each other to one job under JAX."""

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from alpaca_jax.distributed import devices, environment, facts, metadata, preflight
from alpaca_jax.distributed.config import DistributedConfig
from alpaca_jax.distributed.environment import Place
from alpaca_jax.distributed.line import Line
from alpaca_jax.distributed.membership import Membership, set_current
from alpaca_jax.distributed.preflight import LOOPBACK
from alpaca_jax.errors import Restart

SHUTDOWN_SECONDS = 30  # all have said that they are done when it begins


@contextlib.contextmanager
def joined(config: DistributedConfig, folder: str, settings: Mapping[str, Any]) -> Iterator[Membership]:
    """A context in which this process is part of its job; for a process that is alone it does nothing. Nothing may use JAX before it.

    Leaving it waits for all. Where an exception leaves it and there are others, they are told, and the process ends here with the code
    that belongs to the exception, since JAX's own end would wait for them; the one exception is a stop that all have agreed on.
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
    """Returns once all processes are there, agree, and are one job under JAX; the same UserError or Lost in each where it can't begin.

    `folder` is the run's, which all must see; `settings` are what each was told, which all must have been told alike.
    """
    if jax.distributed.is_initialized():  # by a notebook, or by a program of the user's own
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
    """Prints the table of the job: who is where, and on what; versions and code are the same everywhere, and so stand once."""
    first = membership.members[0]
    packages = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    attempt = f", attempt {membership.place.attempt}" if membership.place.attempt else ""
    table = Table("rank", "host", "address", "process", "devices")
    for rank, (who, has) in enumerate(zip(membership.members, seen, strict=True)):
        table.add_row(str(rank), who["host"], who["address"], str(who["pid"]), f"{has['devices']} x {has['chip']}")
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    place = membership.place
    console.print(f"{place.size} processes ({place.kind}{attempt}), coordinator {place.coordinator}", markup=False)
    console.print(table)
    console.print(f"{packages}; code {first['code'] or 'not from git'}", markup=False)


def _initialize(membership: Membership) -> None:
    place, config = membership.place, membership.config
    host, port = place.address
    # JAX would bind to all addresses, which needs IPv6: one machine's own job needs no more than its loopback, a host may lack IPv6.
    bound = host if host in LOOPBACK else None if socket.has_dualstack_ipv6() else "0.0.0.0"
    # It would take SIGTERM for itself and only log it; a stop is ours to agree on.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        coordinator_address=place.coordinator,
        num_processes=place.size,
        process_id=place.rank,
        local_device_ids=devices.own(place, membership.members),
        cluster_detection_method="deactivate",  # nothing is guessed: a task of Slurm would get one device of its node
        initialization_timeout=max(10, round(60 * config.join_minutes)),
        heartbeat_timeout_seconds=config.heartbeat_seconds,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        coordinator_bind_address=None if bound is None else f"{bound}:{port}",
    )


def _exchange(membership: Membership) -> list[dict[str, Any]]:
    """What JAX sees at each rank."""
    assert membership.line is not None
    own = {
        "devices": jax.local_device_count(),
        "chip": jax.local_devices()[0].device_kind,
        "platform": jax.default_backend(),
        "gpus": devices.gpus(),
        "cpu_wanted": "cpu" in (jax.config.jax_platforms or ""),
    }
    return membership.line.gather("devices", own, 60 * membership.config.join_minutes)


def _is_tpu_machine() -> bool:
    return any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0"))


def _say(text: str) -> None:
    print(f"alpaca-jax: {text}", file=sys.stderr, flush=True)

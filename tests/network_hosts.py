"""Network namespaces as hosts: each with an address, a name and an /etc/hosts of its own, joined by a bridge on this machine."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("ip", "nsenter", "unshare", "mount", "hostname")


class Hosts:
    """The hosts n1, n2 ..."""

    def __init__(self, folder: Path, count: int) -> None:
        self._tag = f"{os.getpid() % 100_000:05d}"
        self._net = f"10.77.{os.getpid() % 250}"
        self._file = folder / "hosts"
        self.names = [f"n{i + 1}" for i in range(count)]
        self.gateway = f"{self._net}.254"  # this machine, as the hosts see it

    def address(self, name: str) -> str:
        """The host's address."""
        return f"{self._net}.{self.names.index(name) + 1}"

    def command(self, name: str, command: list[str]) -> list[str]:
        """The command line that runs `command` on a host, with the command's own process id."""
        inside = f'mount --bind {self._file} /etc/hosts && hostname {name} && exec "$@"'
        # Not `ip netns exec`, which mounts a /sys without the cgroups that slurmd wants.
        return ["nsenter", f"--net=/run/netns/{self._namespace(name)}", "unshare", "-m", "-u", "sh", "-c", inside, "sh", *command]

    def cut(self, name: str) -> None:
        """Takes a host's link down, as if a cable were pulled."""
        _ip("link", "set", self._outer(name), "down")

    def mend(self, name: str) -> None:
        """Brings the link up again."""
        _ip("link", "set", self._outer(name), "up")

    def build(self) -> None:
        """Creates the bridge and the hosts."""
        lines = ["127.0.0.1 localhost", *(f"{self.address(name)} {name}" for name in self.names)]
        self._file.write_text("\n".join(lines) + "\n")
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.gateway}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for name in self.names:
            space, outer, inner = self._namespace(name), self._outer(name), f"i{self._outer(name)[1:]}"
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
            _ip("link", "set", inner, "netns", space)
            _ip("link", "set", outer, "master", self._bridge, "up")
            _ip("-n", space, "address", "add", f"{self.address(name)}/24", "dev", inner)
            _ip("-n", space, "link", "set", inner, "up")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "route", "add", "default", "via", self.gateway)

    def remove(self) -> None:
        """Removes whatever of them exists."""
        for name in self.names:
            subprocess.run(["ip", "link", "delete", self._outer(name)], capture_output=True)
            subprocess.run(["ip", "netns", "delete", self._namespace(name)], capture_output=True)
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True)

    @property
    def _bridge(self) -> str:
        return f"b{self._tag}"

    def _namespace(self, name: str) -> str:
        return f"h{self._tag}{name}"

    def _outer(self, name: str) -> str:
        return f"o{self._tag}{name}"


def missing() -> str | None:
    """Why such hosts are impossible here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None]
    if absent:
        return f"no network namespaces here ({', '.join(absent)}): apt-get install --no-install-recommends iproute2"
    return None if os.geteuid() == 0 else "network namespaces need root"


@contextlib.contextmanager
def hosts(folder: Path, count: int) -> Iterator[Hosts]:
    """Hosts that are removed at the end."""
    made = Hosts(folder, count)
    try:
        made.build()
        yield made
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")

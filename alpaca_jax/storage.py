"""Paths on object stores (`gs://`, `s3://`), through etils' epath; only this module creates them.

A store has named objects, no folders: an object appears whole once it is uploaded, and can't be renamed or appended to. So something of
several objects exists once its manifest does, which is written last and deleted first.

Small requests are retried for about half a minute, those for arrays for a quarter of an hour. Once per process, each bucket is tested for
being reachable at all, which fails within seconds.
"""

import base64
import contextlib
import functools
import importlib.util
import logging
import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from alpaca_jax.errors import UserError

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # what epath needs in addition
EXTRAS = {"gs": "gcs", "s3": "s3"}  # of alpaca-jax
LOGIN = {
    "gs": "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's file",
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run `aws configure`",
}
CONNECT_SECONDS = 10.0
AT_ONCE = 16  # objects copied at a time

# epath decides at its first path (also one of Orbax's) which backend it uses: the other one loads TensorFlow, and knows only Google's own
# address.
os.environ["EPATH_USE_TF"] = "false"


class Object(NamedTuple):
    """What a store says about an object without reading it; `md5` (hex) if it keeps one."""

    size: int
    md5: str | None


def is_remote(where: str | os.PathLike[str]) -> bool:
    """Whether `where` is on an object store."""
    return os.fspath(where).startswith(tuple(f"{scheme}://" for scheme in PACKAGES))


def at(where: str | os.PathLike[str]) -> Path:
    """Returns a local path (`~` expanded) or, for `gs://` and `s3://`, one of epath's, which has the same methods.

    A UserError if the scheme is unknown, its package isn't installed, or the bucket doesn't exist or can't be reached.
    """
    text = os.fspath(where)
    if not (match := re.match(r"(\w{2,}):/+", text)):
        return Path(where).expanduser()
    scheme, bucket = match[1], text[match.end() :].split("/")[0]
    if scheme not in PACKAGES:
        raise UserError(f"{text}: {scheme}:// can't be read or written; give a local path, gs://BUCKET/NAME or s3://BUCKET/NAME")
    if not text.startswith(f"{scheme}://") or not bucket:
        raise UserError(f"{text}: not an address of an object store; spell it {scheme}://BUCKET/NAME")
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        raise UserError(f"{text}: the package {PACKAGES[scheme]} is not installed; pip install 'alpaca-jax[{EXTRAS[scheme]}]'")
    _reach(scheme, bucket)
    return _path(text.rstrip("/"))


@contextlib.contextmanager
def explained(where: str | os.PathLike[str]) -> Iterator[None]:
    """A context in which a store's errors (credentials, connection) become a UserError; a missing object stays FileNotFoundError."""
    try:
        yield
    except Exception as error:
        if (user_error := explain(where, error)) is not None:
            raise user_error from error
        raise


def explain(where: str | os.PathLike[str], error: BaseException) -> UserError | None:
    """Returns the UserError for a store's error; None for any other error, and for a missing object."""
    if not is_remote(where) or isinstance(error, UserError | FileNotFoundError):
        return None
    place, scheme = os.fspath(where), os.fspath(where)[:2]
    text = " ".join(str(error).split())[:300] or type(error).__name__
    kind = f"{type(error).__module__}.{type(error).__name__}"
    forbidden = isinstance(error, PermissionError) or "Forbidden" in text or "PERMISSION_DENIED" in text or "UNAUTHENTICATED" in text
    if forbidden or getattr(error, "code", None) in (401, 403) or re.search("google.auth|Credential", kind):
        return UserError(f"{place}: the store refuses ({text}); {LOGIN[scheme]}, and check that the account may read and write this bucket")
    if re.match("aiohttp|requests|botocore", kind) or isinstance(error, ConnectionError | TimeoutError):
        return UserError(f"{place}: the store can't be reached ({text}); check the connection, and start the same command again")
    if kind == "gcsfs.retry.HttpError" or re.search(r"\bgs://|\bs3://|storage/v1", text):
        return UserError(f"{place}: the store reports an error ({text}); check the bucket, and start the same command again")
    return None


def size(path: Path) -> int:
    """Returns how many bytes a file or an object has."""
    stat = path.stat()
    return stat.length if is_remote(path) else stat.st_size  # type: ignore[attr-defined]


def objects(folder: Path) -> dict[str, Object]:
    """Returns every object below a remote folder by its relative name: one request per thousand objects, without reading them."""
    with explained(folder):
        infos = _system(folder).find(os.fspath(folder), detail=True)
    prefix = f"{os.fspath(folder).partition('://')[2]}/"
    return {name.removeprefix(prefix): Object(info["size"], _md5(info)) for name, info in infos.items() if not name.endswith("/")}


def create(path: Path, content: bytes) -> bool:
    """Writes a small object unless there is one of that name; returns whether it did. Of several that try at once, one succeeds."""
    with explained(path):
        try:
            _system(path).pipe_file(os.fspath(path), content, mode="create")
        except FileExistsError:
            return False
    return True


def remove(folder: Path) -> None:
    """Deletes every object below a remote folder; it is no error if there are none."""
    with explained(folder), contextlib.suppress(FileNotFoundError):
        folder.rmtree()  # type: ignore[attr-defined]


def fetch(remote: Path, local: Path) -> None:
    """Copies every object below `remote` into the folder `local`; FileNotFoundError if there is none."""
    names = objects(remote)
    if not names:
        raise FileNotFoundError(f"{remote} holds nothing")

    def copy(name: str) -> None:
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        _system(remote).get_file(f"{os.fspath(remote)}/{name}", str(local / name))

    with explained(remote), ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(copy, names))


def send(local: Path, remote: Path, last: str | None = None) -> None:
    """Uploads every file of the folder `local` below `remote`, the one named `last` after all others."""
    names = sorted(str(path.relative_to(local)) for path in local.rglob("*") if path.is_file())

    def copy(name: str) -> None:
        _system(remote).put_file(str(local / name), f"{os.fspath(remote)}/{name}")

    with explained(remote):
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(copy, [name for name in names if name != last]))
        if last is not None:
            copy(last)


@functools.cache
def _configured() -> Any:
    """epath, configured for stores before its first use, also by Orbax."""
    # Else gcsfs first asks over gRPC for the kind of each bucket, which takes a minute if that is blocked.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import fsspec
    from etils import epath

    # Others write to the same bucket, so listings must not be cached.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    fsspec.config.conf.setdefault("s3", {}).setdefault("use_listings_cache", False)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs a traceback of every error it raises
    return epath


def _path(text: str) -> Path:
    return cast(Path, _configured().Path(text))


def _system(path: Path) -> Any:
    """fsspec's file system of a remote path, the very one that epath uses."""
    return path._backend.fs(path)  # type: ignore[attr-defined]


@functools.cache
def _reach(scheme: str, bucket: str) -> None:
    where = f"{scheme}://{bucket}"
    if scheme == "gs":
        _connect(where)
    with explained(where):
        try:
            _system(_path(where)).info(where)
        except FileNotFoundError as error:
            raise UserError(f"{where}: there is no such bucket, or you may not see it; create it first, or give another address") from error


def _connect(where: str) -> None:
    """Raises a UserError at once if nobody answers; the libraries would retry for minutes."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy")):
        return
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    address = emulator or f"https://storage.{os.environ.get('GOOGLE_CLOUD_UNIVERSE_DOMAIN', 'googleapis.com')}"
    url = urlsplit(address if "://" in address else f"http://{address}")
    try:
        socket.create_connection((url.hostname, url.port or (443 if url.scheme == "https" else 80)), CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        remedy = "STORAGE_EMULATOR_HOST points there: start the emulator, or unset it" if emulator else "check the connection"
        raise UserError(f"{where}: {url.netloc} can't be reached ({getattr(error, 'strerror', None) or error}); {remedy}") from error


def _md5(info: dict[str, Any]) -> str | None:
    # S3's ETag is an md5 only for some objects, and doesn't say for which.
    return base64.b64decode(info["md5Hash"]).hex() if info.get("md5Hash") else None

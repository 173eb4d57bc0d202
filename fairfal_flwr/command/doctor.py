"""Check a host before it joins a federation, and say what to do about each failure."""

import os
import re
import shutil
import socket
import sqlite3
import ssl
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fairfal_flwr.errors import UserError
from fairfal_flwr.paths import nearest_existing, state_root

if TYPE_CHECKING:
    from fairfal_flwr.data import ImageSet, ImageSpec

__all__ = ["Finding", "Host", "examine", "report"]

Verdict = Literal["ok", "note", "FAIL"]

GIBIBYTE = 1 << 30
_PACKAGE = "fairfal-flwr"
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^\]]*\])?([^;]*)(;.*)?")
_SECONDS = 10.0  # for each answer of the SuperLink
_LITTLE_MEMORY, _LITTLE_DISK = 2 * GIBIBYTE, 5 * GIBIBYTE
_EXPIRES_SOON = timedelta(days=30)
# A node's signature carries its time: the SuperLink takes one that is at most 5 s from
# the future and 305 s from the past.
_CLOCK_AHEAD, _CLOCK_BEHIND = 5.0, 305.0
_EXPIRED, _NOT_YET_VALID = 10, 9  # OpenSSL's verify codes
_WRONG_NAME = {62, 64}


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    subject : str
        What was checked.
    verdict : "ok", "note" or "FAIL"
        A note keeps nobody from joining.
    found : str
        What is there.
    advice : str
        What to do about it; empty where there is nothing to do.
    """

    subject: str
    verdict: Verdict
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Host:
    """What this host is going to use; what is None is not checked.

    Attributes
    ----------
    superlink : str or None
        Host and port, as `flower-superlink` is reached from here.
    root_certificates : Path or None
        The CA's certificate; None trusts the certificates of the system.
    insecure : bool
        The SuperLink has no TLS.
    key : Path or None
        The SuperNode's private key.
    data_path : Path or None
        The images.
    run_config : tuple of str
        What the run says of them, as for `fairfal run`: `data.name`, a file or pairs.
    state_dir : str
        Where the ledgers go; empty for the default folder.
    policy : str
        The site's policy; empty for the one of `FAIRFAL_POLICY`, if that is set.
    """

    superlink: str | None = None
    root_certificates: Path | None = None
    insecure: bool = False
    key: Path | None = None
    data_path: Path | None = None
    run_config: tuple[str, ...] = ()
    state_dir: str = ""
    policy: str = ""


def examine(host: Host) -> Iterator[Finding]:
    """Yield one finding per check, as it is made."""
    address = None if host.superlink is None else _split(host.superlink)
    yield _python()
    yield from _packages()
    yield _gpu()
    yield _memory()
    yield _state(state_root(host.state_dir))
    yield _disk(state_root(host.state_dir))
    if host.policy or os.environ.get("FAIRFAL_POLICY"):
        yield _policy(host.policy)
    if host.data_path is not None:
        yield _images(host.data_path, host.run_config)
    if host.key is not None:
        yield _node_key(host.key)
    if address is not None:
        yield from _superlink(host, *address)


def report(finding: Finding) -> str:
    """Return a finding as aligned text, its advice on a line of its own.

    Examples
    --------
    >>> print(report(Finding("Python", "ok", "3.11.7")))
    ok    Python        3.11.7
    >>> print(report(Finding("clock", "FAIL", "9 s ahead", "Set it.")))
    FAIL  clock         9 s ahead
                        -> Set it.
    """
    line = f"{finding.verdict:<6}{finding.subject:<14}{finding.found}"
    return f"{line}\n{'':<20}-> {finding.advice}" if finding.advice else line


def _policy(place: str) -> Finding:
    """Read the policy as a client does, and say which of its keys are set."""
    from fairfal_flwr.client.policy import find_policy

    try:
        policy = find_policy({"policy": place})
    except UserError as error:
        advice = "Correct it; until then the client refuses every message."
        return Finding("policy", "FAIL", str(error), advice)
    values = policy.model_dump(by_alias=True, exclude_unset=True)
    shown = ", ".join(f"{key} {_shown(value)}" for key, value in values.items())
    return Finding("policy", "ok", shown or "empty: the defaults")


def _shown(value: object) -> str:
    return (
        " and ".join(map(str, value)) or "none"
        if isinstance(value, tuple)
        else str(value)
    )


def _split(address: str) -> tuple[str, int]:
    name, _, port = address.rpartition(":")
    if not name or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(
            f"`--superlink` is {address!r}; allowed: host:port, such as "
            "fl.example.org:8000, without https://."
        )
    return name.strip("[]"), int(port)


def _python() -> Finding:
    found = sys.version.partition(" ")[0]
    if (3, 11) <= sys.version_info < (3, 14):
        return Finding("Python", "ok", found)
    return Finding("Python", "FAIL", found, "Install Python 3.11, 3.12 or 3.13.")


def _packages() -> Iterator[Finding]:
    """Compare what is installed with what the app requires."""
    for requirement in distribution(_PACKAGE).requires or ():
        match = _REQUIREMENT.match(requirement)
        assert match is not None
        name, wanted, marker = match.groups()
        if not marker:
            yield _package(name, wanted.strip())


def _package(name: str, wanted: str) -> Finding:
    install = f"pip install '{name}{wanted}', or rebuild the image."
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "FAIL", f"is missing; the app needs {wanted}", install)
    if _fits(found, wanted):
        return Finding(name, "ok", found)
    return Finding(name, "FAIL", f"{found}; the app needs {wanted}", install)


def _fits(found: str, wanted: str) -> bool:
    """Tell whether a version is in a range such as `>=1.2,<2`.

    Examples
    --------
    >>> _fits("2.15.0+cpu", "<3,>=2.9"), _fits("3.0", "<3,>=2.9"), _fits("1.0", "")
    (True, False, True)
    """
    order = {">=": _numbers(found).__ge__, "<": _numbers(found).__lt__}
    for part in filter(None, wanted.split(",")):
        match = re.fullmatch(r"\s*(>=|<)\s*([\d.]+)\s*", part)
        assert match is not None, f"unknown requirement {wanted}"
        if not order[match[1]](_numbers(match[2])):
            return False
    return True


def _numbers(text: str) -> tuple[int, ...]:
    """Return `1.2.0` as (1, 2): zeros at the end mean nothing."""
    release = re.match(r"[\d.]*", text)
    assert release is not None
    numbers = [int(part) for part in release[0].split(".") if part]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def _gpu() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding(
            "GPU", "FAIL", f"PyTorch does not load: {error}", "Reinstall it."
        )
    if torch.cuda.is_available():
        return Finding("GPU", "ok", torch.cuda.get_device_name(0))
    if Path("/proc/driver/nvidia/version").exists():
        return Finding(
            "GPU",
            "note",
            "there is an NVIDIA driver, but PyTorch cannot use it",
            "Install PyTorch with CUDA; in Docker, add the overlay with-gpu.yml.",
        )
    return Finding("GPU", "note", "none: this client computes on the CPU")


def _memory() -> Finding:
    if "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return Finding("memory", "note", "this system does not say how much is free")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = f"{free / GIBIBYTE:.1f} GiB free"
    if free >= _LITTLE_MEMORY:
        return Finding("memory", "ok", found)
    return Finding("memory", "note", found, "It may not be enough to train.")


def _disk(folder: Path) -> Finding:
    """Say how much room there is where ledgers, backups and the cache grow."""
    there = nearest_existing(folder)
    free = shutil.disk_usage(there).free
    found = f"{free / GIBIBYTE:.1f} GiB free at {there}"
    if free >= _LITTLE_DISK:
        return Finding("disk", "ok", found)
    return Finding("disk", "note", found, "Make room, or set `data.cache-mb` lower.")


def _state(folder: Path) -> Finding:
    """Write, sync and reopen a database in the folder of the ledgers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as place:
            _sync(Path(place))
            mode = _try_database(Path(place) / "ledger.sqlite")
    except (OSError, sqlite3.Error) as error:
        return Finding(
            "state dir",
            "FAIL",
            f"{folder}: {error}",
            f"Make it a folder on a local disk that uid {os.geteuid()} can write; the "
            "labels will be there.",
        )
    if mode != "wal":
        return Finding(
            "state dir",
            "FAIL",
            f"{folder}: SQLite's write-ahead log does not work there ({mode})",
            "Use a local disk, not a network file system.",
        )
    if _is_temporary(folder):
        return Finding(
            "state dir",
            "FAIL",
            f"{folder} is in memory: a restart would lose the labels",
            "Use a folder on a disk; in Docker, mount a volume.",
        )
    return Finding("state dir", "ok", f"{folder} keeps what is written")


def _sync(folder: Path) -> None:
    with (folder / "probe").open("wb") as stream:
        stream.write(b"\0" * 4096)
        stream.flush()
        os.fsync(stream.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try_database(file: Path) -> str:
    """Commit a row beside an open reader; return the journal's mode."""
    with closing(sqlite3.connect(file)) as db, closing(sqlite3.connect(file)) as reader:
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        db.execute("CREATE TABLE probe (value INTEGER)")
        db.execute("INSERT INTO probe VALUES (1)")
        db.commit()
        if reader.execute("SELECT value FROM probe").fetchone() != (1,):
            raise sqlite3.DatabaseError("what was written cannot be read back")
    return str(mode)


def _is_temporary(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Tell whether a folder is on a file system in memory (Linux; elsewhere no)."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    kinds = {Path(line.split()[1]): line.split()[2] for line in lines}
    resolved = folder.resolve()
    for place in [resolved, *resolved.parents]:
        if place in kinds:
            return kinds[place] in {"tmpfs", "ramfs"}
    return False


def _images(path: Path, overrides: Sequence[str]) -> Finding:
    """Read a site's images as its client will, and say what they are."""
    from fairfal_flwr.data import load_image_set

    try:
        images = load_image_set(_spec(path, overrides))
    except UserError as error:
        return Finding("images", "FAIL", str(error), "No run can use them as they are.")
    if not len(images.train_images):
        return Finding("images", "FAIL", f"{path} has none to train on")
    found = f"{path}: {_kind(images)}; {_class_list(images)}"
    return Finding("images", "ok", found)


def _spec(path: Path, overrides: Sequence[str]) -> "ImageSpec":
    """Return what a run would ask this site for, with nothing said otherwise."""
    from fairfal_flwr.command.run_config import read_overrides
    from fairfal_flwr.config import RunConfig

    name = "npz" if path.suffix == ".npz" else "folder"
    values = {"data.name": name, **read_overrides(overrides)}
    return RunConfig.from_flat(values).image_spec(str(path))


def _kind(images: "ImageSet") -> str:
    channels, height, width = images.train_images.shape[1:]
    color = "grey" if channels == 1 else "RGB"
    test = f", {len(images.test_images)} to test on" if len(images.test_images) else ""
    return f"{len(images.train_images)} images {width}x{height} {color}{test}"


def _class_list(images: "ImageSet") -> str:
    """Return the classes with their counts, or that nobody has labeled anything."""
    if images.train_labels is None:
        return f"not labeled; classes {', '.join(images.class_names)}"
    counts = images.train_labels.bincount(minlength=images.num_classes).tolist()
    pairs = zip(images.class_names, counts, strict=True)
    return f"{images.num_classes} classes: " + ", ".join(f"{n} {k}" for n, k in pairs)


def _node_key(file: Path) -> Finding:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    advice = "Make one: python docker/credentials.py site NAME"
    try:
        key = load_ssh_private_key(file.read_bytes(), None)
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError as error:
        return Finding("node key", "FAIL", f"{file}: {error.strerror}", advice)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        found = f"{file} is no private key in OpenSSH's format without a passphrase"
        return Finding("node key", "FAIL", found, advice)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        return Finding("node key", "FAIL", f"{file} is no EC key", advice)
    if mode & 0o077:
        found = f"{file}: others can read it (mode {mode:o})"
        return Finding("node key", "FAIL", found, f"chmod 600 {file}")
    return Finding("node key", "ok", f"{file}: {key.curve.name}")


def _superlink(host: Host, name: str, port: int) -> Iterator[Finding]:
    """Resolve, connect, verify, ask; stop at the first step that fails."""
    address = f"{name}:{port}"
    try:
        socket.create_connection((name, port), timeout=_SECONDS).close()
    except OSError as error:
        yield _unreachable(address, error)
        return
    yield Finding("SuperLink", "ok", f"{address} can be reached")
    if host.insecure:
        yield Finding(
            "certificate",
            "note",
            "not checked: `--insecure` sends weights as plain text",
            "Use TLS for anything but a trial on one host.",
        )
        yield _answer(HTTPConnection(name, port, timeout=_SECONDS), address)
        return
    context, problem = _trust(host.root_certificates)
    if context is None:
        yield problem
        return
    certificate = _certificate(context, name, port)
    yield certificate
    if certificate.verdict != "FAIL":
        secure = HTTPSConnection(name, port, timeout=_SECONDS, context=context)
        yield _answer(secure, address)


def _unreachable(address: str, error: OSError) -> Finding:
    name, _, port = address.rpartition(":")
    if isinstance(error, socket.gaierror):
        advice = f"No address is known for {name}: check the spelling and the DNS."
    elif isinstance(error, ConnectionRefusedError):
        advice = f"Is the SuperLink up, and told --host 0.0.0.0 --port {port}?"
    else:
        advice = f"Let TCP to {address} out of this host and into the SuperLink's."
    return Finding("SuperLink", "FAIL", f"{address}: {error}", advice)


def _trust(file: Path | None) -> tuple[ssl.SSLContext | None, Finding]:
    """Return the context that trusts a CA; else None, and why."""
    advice = "Ask the federation's coordinator for ca.crt."
    try:
        context = ssl.create_default_context(cafile=file)
    except OSError as error:  # ssl.SSLError is one
        found = f"{file}: {error.strerror or error}"
        return None, Finding("certificate", "FAIL", found, advice)
    return context, Finding("certificate", "ok", str(file or "the system's CAs"))


def _certificate(context: ssl.SSLContext, name: str, port: int) -> Finding:
    try:
        with (
            socket.create_connection((name, port), timeout=_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            details = secure.getpeercert() or {}
            protocol = secure.version()
    except ssl.SSLCertVerificationError as error:
        return Finding("certificate", "FAIL", *_refusal(error, name))
    except ssl.SSLError as error:
        found = f"no TLS there: {error.reason or error}"
        return Finding("certificate", "FAIL", found, "Is the SuperLink run --insecure?")
    except OSError as error:
        return Finding("certificate", "FAIL", f"no TLS there: {error}", "Try again.")
    end = ssl.cert_time_to_seconds(str(details["notAfter"]))
    left = datetime.fromtimestamp(end, UTC) - datetime.now(UTC)
    found = f"valid for {name}, {left.days} more days ({protocol})"
    if left < _EXPIRES_SOON:
        renew = "The coordinator should renew it: python docker/credentials.py server"
        return Finding("certificate", "note", found, renew)
    return Finding("certificate", "ok", found)


def _refusal(error: ssl.SSLCertVerificationError, name: str) -> tuple[str, str]:
    """Return what is wrong with a certificate, and what to do."""
    if error.verify_code == _EXPIRED:
        return "it has expired", (
            "The coordinator renews it: python docker/credentials.py server --host "
            f"{name}; if it is new, set this host's clock."
        )
    if error.verify_code == _NOT_YET_VALID:
        return "it is not valid yet", "Set this host's clock."
    if error.verify_code in _WRONG_NAME:
        return f"it is not for {name}", (
            "Use a name that stands in it, or have the coordinator add this one: "
            f"python docker/credentials.py server --host {name}"
        )
    return f"it is not signed by the CA given: {error.verify_message}", (
        "Name the federation's ca.crt with --root-certificates; if that is the right "
        "file, somebody else answers at this address."
    )


def _answer(connection: HTTPConnection, address: str) -> Finding:
    """Ask the SuperLink for its health, and compare the clocks."""
    sent = time.time()
    try:
        with closing(connection):
            connection.request("GET", "/health")
            reply = connection.getresponse()
            date = reply.getheader("Date")
    except (OSError, HTTPException) as error:
        if not isinstance(connection, HTTPSConnection) and _speaks_tls(address):
            found = f"{address} speaks TLS, so it does not answer plain HTTP"
            return Finding("clock", "FAIL", found, "Leave out --insecure.")
        found = f"{address} does not answer HTTP: {error}"
        return Finding("clock", "FAIL", found, "Is this port the SuperLink's?")
    if reply.status != 200 or date is None:
        found = f"{address} answers {reply.status} to /health"
        return Finding("clock", "FAIL", found, "Is this port the SuperLink's?")
    middle = (sent + time.time()) / 2
    return _clock(middle - parsedate_to_datetime(date).timestamp() - 0.5)


def _speaks_tls(address: str) -> bool:
    """Tell whether TLS is spoken at an address, whoever vouches for it."""
    name, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((name, int(port)), timeout=_SECONDS) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except OSError:
        return False


def _clock(ahead: float) -> Finding:
    """Judge how far this host's clock is ahead of the SuperLink's, in seconds."""
    found = (
        f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the SuperLink's"
    )
    if -_CLOCK_BEHIND < ahead < _CLOCK_AHEAD:
        return Finding("clock", "ok", found)
    advice = "Let both hosts follow NTP; signatures from this clock are refused."
    return Finding("clock", "FAIL", found, advice)

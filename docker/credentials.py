"""Make what a federation's hosts trust each other by: certificates, keys, a secret.

    python credentials.py server --host fl.example.org  # CA, certificate, secret
    python credentials.py site lisbon porto faro        # a key pair and secret per site

Everything lies below one folder. Nothing that exists is replaced, except the server's
certificate: run `server` again to renew it; the sites keep their `ca.crt` and keys.
Needs the package `cryptography` alone, which every Flower image has.
"""

import argparse
import ipaddress
import os
import re
import secrets
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FLOWER_UID = 49999  # the user `app` of Flower's images
ALWAYS_NAMED = ("superlink", "localhost", "127.0.0.1")
CA_DAYS = 3650

_SITE = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_HOST = re.compile(r"(?=.{1,253}\Z)(\*\.)?[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.I)


def main() -> None:
    """Carry out one command of the command line."""
    arguments = _arguments()
    folder: Path = arguments.folder
    try:
        if arguments.command == "server":
            make_server(folder, arguments.host, arguments.days)
        else:
            for name in arguments.name:
                make_site(folder, name)
    except (OSError, ValueError) as error:
        sys.exit(f"credentials: {error}")
    if os.geteuid() not in (0, FLOWER_UID):
        print(
            "Flower's containers run as uid 49999; let them read these files:\n"
            f"  sudo chown -R {FLOWER_UID}:{FLOWER_UID} {folder / 'certificates'} "
            f"{folder / 'keys'}"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    here = Path(__file__).parent / "credentials"
    parser.add_argument(
        "--folder", type=Path, default=here, help="where all of it lies"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    server = commands.add_parser("server", help="CA, server certificate, secret")
    server.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME_OR_IP",
        help="a name or address by which sites reach the SuperLink; may be repeated",
    )
    server.add_argument(
        "--days", type=int, default=365, help="how long the certificate is valid"
    )
    site = commands.add_parser("site", help="the key pairs of sites")
    site.add_argument("name", nargs="+", help="lower-case letters, digits, hyphens")
    return parser.parse_args()


def make_server(folder: Path, hosts: list[str], days: int) -> None:
    """Make the CA where there is none, a new server certificate, and the secret.

    Raises
    ------
    ValueError
        If a host is neither name nor address, or the days are not the CA's to give.
    """
    for host in hosts:
        if not _is_address(host) and not _HOST.fullmatch(host):
            raise ValueError(
                f"--host is {host!r}; allowed: a name such as fl.example.org or an "
                "address, without scheme, port or blanks"
            )
    _check_days(days, CA_DAYS)
    ca_key, ca = _authority(folder)
    _check_days(days, (ca.not_valid_after_utc - datetime.now(UTC)).days + 1)
    key = ec.generate_private_key(ec.SECP384R1())
    names = list(dict.fromkeys([*hosts, *ALWAYS_NAMED]))
    certificate = _server_certificate(key, ca_key, ca, names, days)
    public = _make_folder(folder / "certificates", 0o755)
    _write(public / "ca.crt", ca.public_bytes(Encoding.PEM), 0o644)
    _write(public / "server.crt", certificate.public_bytes(Encoding.PEM), 0o644)
    _write(public / "server.key", _pem(key), 0o600)
    secret = public / "superexec.secret"
    if not secret.exists():
        _write(secret, secrets.token_hex(32).encode(), 0o600)
    until = certificate.not_valid_after_utc.date()
    print(f"{public / 'server.crt'}: for {', '.join(names)}, valid until {until}")
    print(f"{public / 'ca.crt'}: give it to every site and every user")


def make_site(folder: Path, name: str) -> None:
    """Make one site's key pair in OpenSSH's format, and the secret of its SuperExec.

    Raises
    ------
    ValueError
        If the name cannot be a folder, or the site has its keys already.
    """
    if not _SITE.fullmatch(name):
        raise ValueError(f"a site cannot be named {name!r}: lower-case letters, digits")
    private = folder / "keys" / name / "supernode.key"
    if private.exists():
        raise ValueError(f"{private} exists; remove it if the site shall get a new one")
    key = ec.generate_private_key(ec.SECP384R1())
    text = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    _make_folder(_make_folder(private.parents[2], 0o755) / "keys", 0o755)
    _make_folder(private.parent, 0o755)
    _write(private, text, 0o600)
    secret = private.with_name("superexec.secret")
    _write(secret, secrets.token_hex(32).encode(), 0o600)
    _write(private.with_suffix(".pub"), public + f" {name}\n".encode(), 0o644)
    print(f"{private}: for {name} alone, with {secret.name} beside it")
    print(f"{private.with_suffix('.pub')}: register it")


def _check_days(days: int, most: int) -> None:
    if not 1 <= days <= most:
        raise ValueError(f"--days is {days}; allowed: 1 to {most}, while the CA lasts")


def _authority(folder: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Return the CA of a folder, made on first use; only its owner can read the key."""
    private = _make_folder(_make_folder(folder, 0o755) / "ca", 0o700)
    key_file, certificate_file = private / "ca.key", private / "ca.crt"
    if key_file.exists():
        key = load_pem_private_key(key_file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key, x509.load_pem_x509_certificate(certificate_file.read_bytes())
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FairFAL federation CA")])
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA384())
    )
    _write(certificate_file, certificate.public_bytes(Encoding.PEM), 0o644, own=False)
    _write(key_file, _pem(key), 0o600, own=False)
    return key, certificate


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    ca_key: ec.EllipticCurvePrivateKey,
    ca: x509.Certificate,
    names: list[str],
    days: int,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    server_only = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    return (
        _builder(subject, ca.subject, key.public_key(), days)
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(server_only, critical=False)
        .add_extension(issuer_key, critical=False)
        .sign(ca_key, hashes.SHA384())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))  # clocks differ
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    if _is_address(name):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _make_folder(folder: Path, mode: int) -> Path:
    """Make a folder of that mode, whatever the umask; one that is there stays so."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        folder.chmod(mode)
    return folder


def _write(file: Path, content: bytes, mode: int, *, own: bool = True) -> None:
    """Write a file that nobody could ever read with a wider mode; `own` by Flower."""
    partial = file.with_name(f".{file.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        os.fchmod(descriptor, mode)
        if own and os.geteuid() == 0:
            os.fchown(descriptor, FLOWER_UID, FLOWER_UID)
        stream.write(content)
    partial.replace(file)


if __name__ == "__main__":
    main()

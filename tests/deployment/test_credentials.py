"""`docker/credentials.py`: names, permissions, and nothing overwritten."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    load_ssh_private_key,
    load_ssh_public_key,
)

SCRIPT = Path(__file__).parents[2] / "docker" / "credentials.py"
FLOWER_UID = 49999


def credentials(folder, *arguments, umask=-1):
    command = [sys.executable, SCRIPT, "--folder", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, umask=umask)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("credentials")
    hosts = ["--host", "fl.example.org", "--host", "192.0.2.7"]
    for arguments in (["server", *hosts], ["site", "lisbon", "porto"]):
        done = credentials(place, *arguments)
        assert done.returncode == 0, done.stderr
    return place


def files(folder):
    return {str(f.relative_to(folder)): f for f in folder.rglob("*") if f.is_file()}


def test_all_that_a_federation_needs_is_there(folder):
    assert set(files(folder)) == {
        *("ca/ca.crt", "ca/ca.key"),
        *("certificates/ca.crt", "certificates/server.crt", "certificates/server.key"),
        "certificates/superexec.secret",
        *("keys/lisbon/supernode.key", "keys/lisbon/supernode.pub"),
        *("keys/porto/supernode.key", "keys/porto/supernode.pub"),
        *("keys/lisbon/superexec.secret", "keys/porto/superexec.secret"),
    }


def test_secrets_are_their_owners_alone(folder):
    for name, file in files(folder).items():
        secret = name.endswith((".key", ".secret"))
        assert file.stat().st_mode & 0o777 == (0o600 if secret else 0o644), name


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_folders_have_their_modes_whatever_the_umask(tmp_path, umask):
    """Others pass through to what is public; into the CA's folder nobody looks."""
    place = tmp_path / "credentials"
    for arguments in (["server"], ["site", "lisbon"]):
        assert credentials(place, *arguments, umask=umask).returncode == 0
    folders = [place, *(folder for folder in place.rglob("*") if folder.is_dir())]
    modes = {str(f.relative_to(place)): f.stat().st_mode & 0o7777 for f in folders}
    assert modes == {
        ".": 0o755,
        "ca": 0o700,
        "certificates": 0o755,
        "keys": 0o755,
        "keys/lisbon": 0o755,
    }


def test_every_secret_is_one_of_its_own(folder):
    secrets = [f.read_bytes() for f in files(folder).values() if f.suffix == ".secret"]
    assert len(set(secrets)) == 3
    assert all(len(secret) == 64 for secret in secrets)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_flowers_user_owns_all_but_the_ca(folder):
    for name, file in files(folder).items():
        owner = os.geteuid() if name.startswith("ca/") else FLOWER_UID
        assert file.stat().st_uid == owner, name


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_flowers_user_reads_its_files_and_not_the_cas_key(tmp_path):
    os.chmod(tmp_path, 0o755)  # noqa: PTH101
    credentials(tmp_path, "server")
    for name, status in {"certificates/server.key": 0, "ca/ca.key": 1}.items():
        file = os.open(tmp_path, os.O_RDONLY)  # what lies above may be root's alone
        done = subprocess.run(
            ["cat", f"/proc/self/fd/{file}/{name}"],
            pass_fds=[file],
            user=FLOWER_UID,
            group=FLOWER_UID,
            extra_groups=[],
            capture_output=True,
            text=True,
        )
        os.close(file)
        assert done.returncode == status, done.stderr


def test_the_certificate_names_what_it_was_told_and_what_compose_needs(folder):
    certificate = x509.load_pem_x509_certificate(
        (folder / "certificates" / "server.crt").read_bytes()
    )
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.value.get_values_for_type(x509.DNSName) == [
        "fl.example.org",
        "superlink",
        "localhost",
    ]
    addresses = names.value.get_values_for_type(x509.IPAddress)
    assert [str(address) for address in addresses] == ["192.0.2.7", "127.0.0.1"]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("fl.example.org", None),
        ("superlink", None),
        ("192.0.2.7", None),
        ("other.example.org", "Hostname mismatch"),
    ],
)
def test_a_strict_client_takes_the_certificate_for_its_names_alone(folder, name, error):
    public = folder / "certificates"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(public / "server.crt", public / "server.key")
    client = ssl.create_default_context(cafile=public / "ca.crt")
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    left, right = socket.socketpair()

    def serve():
        with suppress(ssl.SSLError, OSError), server.wrap_socket(left, True):
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        if error is None:
            client.wrap_socket(right, server_hostname=name).close()
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match=error):
                client.wrap_socket(right, server_hostname=name)
    finally:
        right.close()
        thread.join()
        left.close()


def test_a_sites_keys_are_what_flower_takes(folder):
    file = folder / "keys" / "lisbon" / "supernode.key"
    private = load_ssh_private_key(file.read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert private.curve.name == "secp384r1"
    public = load_ssh_public_key(file.with_suffix(".pub").read_bytes())
    assert public == private.public_key()


def test_renewal_replaces_the_servers_certificate_and_nothing_else(folder):
    before = {name: file.read_bytes() for name, file in files(folder).items()}
    assert credentials(folder, "server", "--host", "new").returncode == 0
    after = {name: file.read_bytes() for name, file in files(folder).items()}
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"certificates/server.crt", "certificates/server.key"}


def test_a_sites_keys_are_never_replaced(folder):
    done = credentials(folder, "site", "lisbon")
    assert done.returncode == 1
    assert "lisbon/supernode.key exists" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--days", "99999999"],
        ["--days", "3651"],
        ["--days", "0"],
        ["--days", "-3"],
        ["--host", "two words"],
        ["--host", ""],
        ["--host", "https://fl.example.org"],
        ["--host", "fl.example.org:8000"],
        ["--host", "fl..example.org"],
        ["--host", "m\N{LATIN SMALL LETTER U WITH DIAERESIS}nchen.example"],
        ["--host", "x" * 64],
        ["--host", "fl.example.org\n"],
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_made(tmp_path, arguments):
    done = credentials(tmp_path / "credentials", "server", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"credentials: {arguments[0]} is ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_certificate_does_not_outlive_its_ca(tmp_path):
    assert credentials(tmp_path, "server", "--days", "3650").returncode == 0


@pytest.mark.parametrize("host", ["a" * 63 + ".example.org", "*.example.org", "::1"])
def test_long_names_wildcards_and_addresses_are_hosts(tmp_path, host):
    done = credentials(tmp_path, "server", "--host", host)
    assert done.returncode == 0, done.stderr
    assert host in done.stdout


@pytest.mark.parametrize("name", ["../evil", "Lisbon", "", "a/b", "-x-"])
def test_a_sites_name_is_a_folders(tmp_path, name):
    assert credentials(tmp_path, "site", "--", name).returncode != 0
    assert not files(tmp_path)

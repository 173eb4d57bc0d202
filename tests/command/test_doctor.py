"""`fairfal doctor`: each thing that can be wrong with a host, made wrong."""

import errno
import os
import sqlite3
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mistakes import make_home, write_image, write_images
from PIL import Image
from typer.testing import CliRunner

from fairfal_flwr.command import cli, doctor
from fairfal_flwr.command.doctor import Host, examine

SCRIPT = Path(__file__).parents[2] / "docker" / "credentials.py"


@pytest.fixture(scope="module")
def credentials(tmp_path_factory):
    folder = tmp_path_factory.mktemp("credentials")
    for arguments in (["server"], ["site", "lisbon"]):
        command = [sys.executable, SCRIPT, "--folder", folder, *arguments]
        subprocess.run(command, check=True, capture_output=True)
    return folder


class Health(BaseHTTPRequestHandler):
    """Answers as a SuperLink does."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments):
        pass


@pytest.fixture
def serve(request):
    """Serve HTTP(S) on a free port; return the port."""

    def start(certificate=None, key=None, ahead=0.0):
        server = HTTPServer(("127.0.0.1", 0), Health)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()

        def stop():
            server.shutdown()
            thread.join()
            server.server_close()

        request.addfinalizer(stop)
        return server.server_port

    return start


@pytest.fixture
def tls(serve, credentials):
    public = credentials / "certificates"
    return serve(public / "server.crt", public / "server.key")


@pytest.fixture(autouse=True)
def a_disk(monkeypatch):
    """Take every folder for one on a disk: tests may run in memory."""
    monkeypatch.setattr(doctor, "_is_temporary", lambda _folder: False)


def findings(tmp_path, **options):
    found = examine(Host(state_dir=str(tmp_path / "state"), **options))
    return {finding.subject: finding for finding in found}


def test_a_good_host_passes_every_check(tmp_path, credentials, tls):
    write_images(tmp_path / "site", ("train", "test"))
    found = findings(
        tmp_path,
        superlink=f"localhost:{tls}",
        root_certificates=credentials / "certificates" / "ca.crt",
        key=credentials / "keys" / "lisbon" / "supernode.key",
        data_path=tmp_path / "site",
    )
    assert {f.verdict for f in found.values()} <= {"ok", "note"}
    assert list(found)[-8:] == [
        "memory",
        "state dir",
        "disk",
        "images",
        "node key",
        "SuperLink",
        "certificate",
        "clock",
    ]
    assert found["certificate"].found.startswith("valid for localhost, 364 more days")
    assert not list((tmp_path / "state").iterdir())


def test_what_fails_is_counted_and_the_exit_status_tells(tmp_path):
    options = ["--state-dir", str(tmp_path), "--data-path", str(tmp_path / "none")]
    result = CliRunner().invoke(cli.app, ["doctor", *options])
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert (
        f"FAIL  images        `data-path` is '{tmp_path / 'none'}', but there is no "
        f"folder '{tmp_path / 'none'}'."
    ) in lines
    assert "                    -> No run can use them as they are." in lines
    assert result.stderr == "fairfal: 1 of the checks failed.\n"


def test_an_address_without_a_port_is_a_mistake(tmp_path):
    options = ["--state-dir", str(tmp_path), "--superlink", "https://fl.example.org"]
    result = CliRunner().invoke(cli.app, ["doctor", *options])
    assert result.exit_code == 2
    assert "allowed: host:port" in result.stderr


# Software


def test_an_old_python_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert doctor._python().verdict == "FAIL"


def test_a_missing_and_an_old_package_are_named(monkeypatch):
    assert "is missing" in doctor._package("no-such-package", ">=1").found
    monkeypatch.setattr(doctor, "version", lambda _name: "1.31.0")
    finding = doctor._package("flwr", "<1.44,>=1.41.0")
    assert (finding.verdict, finding.found) == (
        "FAIL",
        "1.31.0; the app needs <1.44,>=1.41.0",
    )
    assert "pip install 'flwr<1.44,>=1.41.0'" in finding.advice


def test_a_driver_that_pytorch_cannot_use_is_noted(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda _self: True)
    assert "PyTorch cannot use it" in doctor._gpu().found


# Folders


def test_a_state_dir_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "state").write_text("a file")
    finding = findings(tmp_path)["state dir"]
    assert finding.verdict == "FAIL"
    assert "File exists" in finding.found


def test_a_disk_that_does_not_sync_fails(tmp_path, monkeypatch):
    def refuse(_descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    assert "Input/output error" in findings(tmp_path)["state dir"].found


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (sqlite3.OperationalError("locking protocol"), "locking protocol"),
        (None, "(delete)"),
    ],
)
def test_a_disk_without_a_write_ahead_log_fails(tmp_path, monkeypatch, error, found):
    def try_database(_file):
        if error:
            raise error
        return "delete"

    monkeypatch.setattr(doctor, "_try_database", try_database)
    finding = findings(tmp_path)["state dir"]
    assert finding.verdict == "FAIL"
    assert found in finding.found


def test_a_state_dir_in_memory_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_is_temporary", lambda _folder: True)
    assert "in memory" in findings(tmp_path)["state dir"].found


def test_the_nearest_mount_tells_what_is_in_memory(tmp_path, monkeypatch):
    monkeypatch.undo()
    mounts = tmp_path / "mounts"
    mounts.write_text("disk / ext4 rw\ntmpfs /m tmpfs rw\ndisk /m/disk xfs rw\n")
    answers = [
        doctor._is_temporary(Path(place), mounts)
        for place in ("/data", "/m", "/m/a/b", "/m/disk/a", "/mother")
    ]
    assert answers == [False, True, True, False, False]
    assert not doctor._is_temporary(tmp_path, tmp_path / "none")


def test_the_policy_is_read_as_the_client_reads_it(tmp_path, monkeypatch):
    file = tmp_path / "policy.toml"
    file.write_text('labels-per-cycle = 9\nstrategies = ["built-in", "lab:*"]\n')
    found = next(
        f for f in doctor.examine(Host(policy=str(file))) if f.subject == "policy"
    )
    assert found.verdict == "ok"
    assert found.found == "strategies built-in and lab:*, labels-per-cycle 9"
    file.write_text("labels-per-cycl = 9\n")
    monkeypatch.setenv("FAIRFAL_POLICY", str(file))
    (found,) = [f for f in doctor.examine(Host()) if f.subject == "policy"]
    assert found.verdict == "FAIL"
    assert "labels-per-cycl" in found.found
    monkeypatch.delenv("FAIRFAL_POLICY")
    assert all(finding.subject != "policy" for finding in doctor.examine(Host()))


# Images


def images_of(path, *overrides):
    return doctor._images(path, overrides)


@pytest.mark.parametrize("name", ["site", "site.npz"])
def test_images_are_described_as_the_run_will_read_them(tmp_path, name):
    write_images(tmp_path / "site", ("train", "test"))
    pixels = np.zeros((5, 16, 16), np.uint8)
    labels = np.array([0, 0, 1, 1, 1])
    arrays = {f"{part}_images": pixels for part in ("train", "test")}
    arrays |= {f"{part}_labels": labels for part in ("train", "test")}
    np.savez(tmp_path / "site.npz", **arrays)
    finding = images_of(tmp_path / name)
    assert finding.verdict == "ok"
    assert finding.found == f"{tmp_path / name}: " + (
        "8 images 16x16 grey, 8 to test on; 2 classes: cat 4, dog 4"
        if name == "site"
        else "5 images 16x16 grey, 5 to test on; 2 classes: 0 2, 1 3"
    )


def test_unlabeled_images_need_the_names_that_the_run_gives(tmp_path):
    write_image(tmp_path / "1.png")
    assert "`data.class-names`" in images_of(tmp_path).found
    finding = images_of(tmp_path, "data.class-names=cat,dog data.image-size=32")
    assert finding.found == (
        f"{tmp_path}: 1 images 32x32 grey; not labeled; classes cat, dog"
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("cut", "cat/2.png' cannot be read: it is no image"),
        ("two-sizes", "0.png' is 16x16 and "),
        ("empty-class", "dog' holds no image; fill or remove it"),
        ("grey-and-color", "`data.channels`"),
        ("stray", "note.txt' lies beside class folders"),
        ("empty", "holds no image"),
        ("images.npz", "it is no .npz archive"),
    ],
)
def test_what_every_run_would_refuse_fails(tmp_path, name, found):
    make_home(tmp_path)
    write_images(tmp_path / "grey-and-color", ("train",))
    Image.new("RGB", (16, 16), "red").save(tmp_path / "grey-and-color/train/cat/3.png")
    write_images(tmp_path / "stray", ("train",))
    (tmp_path / "stray/train/note.txt").write_text("mind the cats")
    finding = images_of(tmp_path / name)
    assert finding.verdict == "FAIL"
    assert found in finding.found


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_named(tmp_path):
    write_images(tmp_path, ("train",))
    (tmp_path / "train/cat/1.png").chmod(0o000)
    assert "1.png' cannot be read: Permission denied" in images_of(tmp_path).found


# Room


@pytest.mark.parametrize(("gibibytes", "verdict"), [(1, "note"), (9, "ok")])
def test_little_room_is_a_note(tmp_path, monkeypatch, gibibytes, verdict):
    free = SimpleNamespace(free=gibibytes * doctor.GIBIBYTE)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    finding = doctor._disk(tmp_path / "not/there/yet")
    assert (finding.verdict, finding.found) == (
        verdict,
        f"{gibibytes}.0 GiB free at {tmp_path}",
    )
    pages = {"SC_AVPHYS_PAGES": gibibytes << 18, "SC_PAGE_SIZE": 1 << 12}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    assert doctor._memory().verdict == verdict


# The key


def test_a_key_that_others_can_read_fails(tmp_path, credentials):
    key = tmp_path / "supernode.key"
    key.write_bytes((credentials / "keys/lisbon/supernode.key").read_bytes())
    key.chmod(0o644)
    assert "others can read it (mode 644)" in doctor._node_key(key).found


@pytest.mark.parametrize("name", ["certificates/server.key", "ca/ca.crt", "none"])
def test_another_file_is_no_key(credentials, name):
    finding = doctor._node_key(credentials / name)
    assert finding.verdict == "FAIL"
    assert "credentials.py site" in finding.advice


# The SuperLink


def test_a_closed_port_is_told_apart_from_an_unknown_name(tmp_path, monkeypatch):
    closed = findings(tmp_path, superlink="127.0.0.1:1")["SuperLink"]
    assert "refused" in closed.found
    unknown = findings(tmp_path, superlink="no.such.host.invalid:8000")["SuperLink"]
    assert "DNS" in unknown.advice


def test_a_certificate_of_another_ca_fails(tmp_path, tls, credentials):
    other = tmp_path / "other"
    command = [sys.executable, SCRIPT, "--folder", other, "server"]
    subprocess.run(command, check=True, capture_output=True)
    for ca in (other / "certificates" / "ca.crt", None):
        found = findings(tmp_path, superlink=f"localhost:{tls}", root_certificates=ca)
        assert "not signed by the CA" in found["certificate"].found
        assert "clock" not in found


def test_a_certificate_for_another_name_fails(tmp_path, tls, credentials, monkeypatch):
    import socket

    connect = socket.create_connection
    monkeypatch.setattr(
        socket, "create_connection", lambda to, **k: connect(("127.0.0.1", to[1]), **k)
    )
    found = findings(
        tmp_path,
        superlink=f"fl.example.org:{tls}",
        root_certificates=credentials / "certificates" / "ca.crt",
    )["certificate"]
    assert found.found == "it is not for fl.example.org"
    assert "server --host fl.example.org" in found.advice


@pytest.mark.parametrize(
    ("days", "verdict", "text"),
    [("0", "FAIL", "it has expired"), ("20", "note", "19 more days")],
)
def test_a_certificate_near_its_end_is_noticed(
    tmp_path, serve, credentials, days, verdict, text
):
    import shutil

    folder = tmp_path / "credentials"
    shutil.copytree(credentials, folder)
    program = (  # which by itself makes none that has expired
        f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import credentials; "
        "credentials._check_days = lambda *_: None; sys.exit(credentials.main())"
    )
    command = [sys.executable, "-c", program, "--folder", folder, "server"]
    subprocess.run([*command, "--days", days], check=True, capture_output=True)
    public = folder / "certificates"
    port = serve(public / "server.crt", public / "server.key")
    finding = findings(
        tmp_path,
        superlink=f"localhost:{port}",
        root_certificates=public / "ca.crt",
    )["certificate"]
    assert finding.verdict == verdict
    assert text in finding.found


def test_a_file_that_is_no_certificate_fails(tmp_path, tls):
    for file in (tmp_path / "none", Path(__file__)):
        found = findings(tmp_path, superlink=f"localhost:{tls}", root_certificates=file)
        assert "ask" in found["certificate"].advice.lower()


def test_a_superlink_without_tls_is_told(tmp_path, serve, credentials):
    finding = findings(
        tmp_path,
        superlink=f"localhost:{serve()}",
        root_certificates=credentials / "certificates" / "ca.crt",
    )["certificate"]
    assert finding.verdict == "FAIL"
    assert "--insecure" in finding.advice


def test_a_superlink_with_tls_is_told_from_none(tmp_path, tls):
    found = findings(tmp_path, superlink=f"localhost:{tls}", insecure=True)["clock"]
    assert found.verdict == "FAIL"
    assert found.found == (
        f"localhost:{tls} speaks TLS, so it does not answer plain HTTP"
    )
    assert found.advice == "Leave out --insecure."


def test_plain_text_is_noted(tmp_path, serve):
    found = findings(tmp_path, superlink=f"localhost:{serve()}", insecure=True)
    assert found["certificate"].verdict == "note"
    assert found["clock"].verdict == "ok"


@pytest.mark.parametrize(
    ("seconds", "verdict", "found"),
    [
        (0.4, "ok", "0 s ahead"),
        (4.0, "ok", "4 s ahead"),
        (6.0, "FAIL", "6 s ahead"),
        (-300.0, "ok", "300 s behind"),
        (-310.0, "FAIL", "310 s behind"),
    ],
)
def test_a_clock_is_judged_as_the_superlink_judges_signatures(seconds, verdict, found):
    finding = doctor._clock(seconds)
    assert finding.verdict == verdict
    assert finding.found.startswith(found)


def test_the_clocks_are_compared(tmp_path, serve, monkeypatch):
    here = doctor.time.time
    monkeypatch.setattr(doctor, "time", SimpleNamespace(time=lambda: here() + 3600))
    found = findings(tmp_path, superlink=f"localhost:{serve()}", insecure=True)
    assert found["clock"].found in {
        f"{seconds} s ahead of the SuperLink's" for seconds in (3599, 3600, 3601)
    }


def test_the_limits_are_flowers():
    from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

    assert doctor._CLOCK_AHEAD == SYSTEM_TIME_TOLERANCE
    assert doctor._CLOCK_BEHIND == SYSTEM_TIME_TOLERANCE + TIMESTAMP_TOLERANCE

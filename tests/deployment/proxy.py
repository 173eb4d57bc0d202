"""Forward TCP connections and keep every byte that crosses.

python proxy.py LISTEN_HOST:PORT TARGET_HOST:PORT FILE
"""

import socket
import sys
import threading
from contextlib import suppress
from typing import BinaryIO

_lock = threading.Lock()


def main(listen: str, target: str, file: str) -> None:
    """Serve until killed."""
    with open(file, "ab", buffering=0) as log:  # noqa: PTH123 - nothing but sockets here
        host, _, port = listen.rpartition(":")
        with socket.create_server((host, int(port)), backlog=64) as server:
            while True:
                client, _ = server.accept()
                threading.Thread(
                    target=_connect, args=(client, target, log), daemon=True
                ).start()


def _connect(client: socket.socket, target: str, log: BinaryIO) -> None:
    host, _, port = target.rpartition(":")
    try:
        server = socket.create_connection((host, int(port)), timeout=10)
    except OSError:
        client.close()
        return
    server.settimeout(None)
    for pair in ((client, server), (server, client)):
        threading.Thread(target=_copy, args=(*pair, log), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket, log: BinaryIO) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            with _lock:
                log.write(data)
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


if __name__ == "__main__":
    main(*sys.argv[1:])

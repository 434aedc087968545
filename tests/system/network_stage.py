"""Runs a command in a network of its own: `network_stage.py JSON COMMAND ...`; see `networks`. It is no module to import.

It must run in new namespaces for networks and mounts. It starts a name server that answers in one way, and perhaps a web
server over TLS, and then the command, whose exit code it returns.
"""

import ipaddress
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading

CODES = {"nxdomain": 3, "servfail": 2, "refused": 5}


def serve_names(server: socket.socket, addresses: list[str], code: int) -> None:
    while True:
        question, client = server.recvfrom(4096)
        end = question.index(b"\0", 12) + 5
        kind = struct.unpack("!H", question[end - 4 : end - 2])[0]
        records = b""
        found = [ipaddress.ip_address(each) for each in addresses]
        chosen = [each.packed for each in found if kind == {4: 1, 6: 28}[each.version]]
        for packed in chosen:
            records += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(packed)) + packed
        head = question[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(chosen), 0, 0)
        server.sendto(head + question[12:end] + records, client)


def serve_web(listener: socket.socket, context: ssl.SSLContext, answer: bytes) -> None:
    while True:
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as stream:
                stream.recv(65536)
                stream.sendall(answer)
        except OSError:
            connection.close()


def main(stage: dict[str, object], command: list[str]) -> int:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for line in stage["setup"]:  # type: ignore[attr-defined]
        subprocess.run(["ip", *line.split()], check=True)
    subprocess.run(["mount", "--bind", str(stage["resolver"]), "/etc/resolv.conf"], check=True)
    names = stage["names"]
    if names is not None:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind(("127.0.0.1", 53))
        if names != "silent":
            addresses = names if isinstance(names, list) else []
            code = 0 if isinstance(names, list) else CODES[str(names)]
            threading.Thread(target=serve_names, args=(server, addresses, code), daemon=True).start()
    if stage["certificate"] is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(stage["certificate"]))
        listener = socket.create_server(("127.0.0.1", 443))
        answer = str(stage["answer"]).encode()
        threading.Thread(target=serve_web, args=(listener, context, answer), daemon=True).start()
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    code = main(json.loads(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(code)

#!/usr/bin/env python3
"""A name server for a private network: answers from a table, and writes every question to a log.

    names.py LOG NAME=ADDRESS... _SERVICE.NAME=PORT:TARGET[?TEXT]...      on 127.0.0.1:53, UDP, until it is ended
"""

import socket
import sys

A, TXT, SRV = 1, 16, 33


def question(packet):
    """The name, its type, and where the question ends."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1 : at + 1 + packet[at]].decode("ascii", "replace"))
        at += packet[at] + 1
    return ".".join(labels).lower(), int.from_bytes(packet[at + 1 : at + 3]), at + 5


def encoded(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def record_of(name, kind, table):
    """What the record of a name holds, or nothing."""
    if kind == A and name in table:
        return socket.inet_aton(table[name])
    if kind == SRV and name in table:
        port, target = table[name].split("?")[0].split(":")
        return bytes(4) + int(port).to_bytes(2) + encoded(target)
    services = [value for entry, value in table.items() if entry.startswith("_") and entry.endswith("." + name)]
    if kind == TXT and services and "?" in services[0]:
        text = services[0].split("?")[1].encode()
        return bytes([len(text)]) + text
    return None


def answer(packet, table):
    name, kind, end = question(packet)
    known = any(entry == name or entry.endswith("." + name) for entry in table)
    data = record_of(name, kind, table)
    # Flags: response, recursion available; 3 is "no such name".
    flags = 0x8180 if known else 0x8183
    head = packet[:2] + flags.to_bytes(2) + bytes([0, 1, 0, 1 if data else 0, 0, 0, 0, 0])
    record = b"" if data is None else b"\xc0\x0c" + kind.to_bytes(2) + b"\0\1\0\0\0\x05" + len(data).to_bytes(2) + data
    return head + packet[12:end] + record


def main():
    log, table = sys.argv[1], dict(entry.split("=", 1) for entry in sys.argv[2:])
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    with open(log, "w", buffering=1) as out:
        print("ready", file=out)
        while True:
            packet, sender = server.recvfrom(4096)
            name, kind, _ = question(packet)
            print({A: "A", TXT: "TXT", SRV: "SRV"}.get(kind, kind), name, file=out)
            server.sendto(answer(packet, table), sender)


main()

"""Runs a command where no network is, and tells which names it looked up: in namespaces of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

# Answers every question with "no such name", and writes the name; the first thing it does is to raise the loopback.
SERVER = """
import fcntl, socket, struct, sys
with socket.socket() as any_socket:
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x49))  # SIOCSIFFLAGS: up, running
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
with open(sys.argv[1], "w") as asked:
    print("ready", file=asked, flush=True)
    while True:
        question, sender = server.recvfrom(4096)
        name, at = [], 12
        while question[at]:
            name.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace"))
            at += question[at] + 1
        print(".".join(name), file=asked, flush=True)
        server.sendto(question[:2] + b"\\x81\\x83" + question[4:6] + bytes(6) + question[12:], sender)
"""
SHELL = """
mount --bind "$1/resolv.conf" /etc/resolv.conf || exit 99
"$2" "$1/server.py" "$1/asked" & server=$!
for i in 1 2 3 4 5 6 7 8 9 10 20 30 40 50 60 70 80 90; do grep -q ready "$1/asked" 2>/dev/null && break; sleep 0.1; done
folder=$1; shift 2; "$@"; code=$?
sleep 0.2; kill $server; exit $code
"""


def run_offline(
    command: Sequence[object], *, env: Mapping[str, str], cwd: Path | None = None
) -> tuple[subprocess.CompletedProcess[str], list[str] | None]:
    """Run a command; what came of it, and the names that it looked up, None where that can't be watched here."""
    words = [str(word) for word in command]
    if not can_watch():
        return subprocess.run(words, env=env, cwd=cwd, capture_output=True, text=True), None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        (Path(folder) / "server.py").write_text(SERVER)
        shell = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", SHELL, "sh", folder, sys.executable]
        done = subprocess.run([*shell, *words], env=env, cwd=cwd, capture_output=True, text=True)
        ready, *names = (Path(folder) / "asked").read_text().splitlines()
    assert ready == "ready"
    return done, names


@cache
def can_watch() -> bool:
    """Whether this machine lets a test make the namespaces (Linux, not in every container)."""
    probe = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", "mount --bind /dev/null /etc/resolv.conf"]
    try:
        return subprocess.run(probe, capture_output=True).returncode == 0
    except OSError:
        return False

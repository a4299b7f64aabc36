"""`python warm.py SOCKET`: imports what commands need, once, and forks for each command that a client sends.

A client (`CLIENT`, under the name of the command) sends its standard files, name, arguments, working directory and
environment, and gets the exit status back. What the child does is in `commands`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

CLIENT = """#!{python} -SE
import json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect({socket!r})
said = json.dumps([os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(link, [len(said).to_bytes(8, "little")], [0, 1, 2])
link.sendall(said)
answer = link.recv(8)
if not answer:
    sys.exit("the command ended without a status: " + " ".join(sys.argv))
sys.exit(int(answer))
"""


def _received(link: socket.socket) -> tuple[list[int], list[object]]:
    head, files, _, _ = socket.recv_fds(link, 8, 3)
    size, said = int.from_bytes(head, "little"), b""
    while len(said) < size:
        said += link.recv(size - len(said))
    return files, json.loads(said)


def _run(link: socket.socket) -> int:
    """In the child: the command's exit status."""
    import commands

    files, (name, arguments, folder, environment) = _received(link)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(environment)  # type: ignore[call-overload]
    os.chdir(folder)  # type: ignore[arg-type]
    try:
        return commands.run(name, arguments)  # type: ignore[arg-type]
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def main(place: str) -> None:
    tests = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(tests), str(tests.parent)]
    import commands

    commands.prepare()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        link, _ = listening.accept()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listening.close()
            status = _run(link)
            sys.stdout.flush()
            sys.stderr.flush()
            link.sendall(str(status).encode())
            os._exit(status)
        link.close()


if __name__ == "__main__":
    main(sys.argv[1])

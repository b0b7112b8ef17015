"""Ask a running daemon: minimal_client.py PROMPT, or minimal_client.py COMMAND KEY=VALUE ..."""

import json
import os
import sys
import uuid

import zmq

DEADLINE_S = 300
base = os.environ.get("XDG_RUNTIME_DIR")
usual = f"{base}/sovl" if base else f"/tmp/sovl-{os.getuid()}"  # noqa: S108 - ours alone
runtime_dir = os.environ.get("SOVL_CONNECT", usual)

name, args = "generate", {"prompt": sys.argv[1]}
if len(sys.argv) > 2:
    name = sys.argv[1]
    args = {key: json.loads(value) for key, value in (word.split("=", 1) for word in sys.argv[2:])}
payload = {"name": name, "args": args, "deadline_s": DEADLINE_S}
command = {"v": 1, "kind": "command", "id": uuid.uuid4().hex, "payload": payload}

socket = zmq.Context().socket(zmq.DEALER)
socket.linger = 0
socket.connect(f"ipc://{runtime_dir}/commands.ipc")
socket.send_json(command)
patience_ms = 1000  # a command is accepted or refused at once
while socket.poll(patience_ms):
    patience_ms = 1000 * DEADLINE_S + 1000
    reply = socket.recv_json()
    if reply["kind"] == "progress":
        print(reply["payload"]["data"].get("text", ""), end="", flush=True)
    elif reply["kind"] == "result":
        sys.exit(print())
    elif reply["kind"] == "error":
        sys.exit(f"{reply['payload']['code']}: {reply['payload']['message']}")
sys.exit(f"no daemon answers in {runtime_dir}")

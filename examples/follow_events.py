"""Print events as they come: follow_events.py [TOPIC PREFIX ...]; all without any."""

import json
import os
import sys
import uuid

import zmq

base = os.environ.get("XDG_RUNTIME_DIR")
usual = f"{base}/sovl" if base else f"/tmp/sovl-{os.getuid()}"  # noqa: S108 - ours alone
runtime_dir = os.environ.get("SOVL_CONNECT", usual)
payload = {"topics": sys.argv[1:] or [""], "name": "follow_events"}
epoch, seqs = None, {}


def check(topic: str, seq: int) -> None:
    missed = seq - seqs.get(topic, 0) - 1
    if missed > 0:
        print(f"{topic}: {missed} missed", file=sys.stderr)


socket = zmq.Context().socket(zmq.DEALER)
socket.linger = 0
socket.connect(f"ipc://{runtime_dir}/events.ipc")
while True:
    socket.send_json({"v": 1, "kind": "subscribe", "id": uuid.uuid4().hex, "payload": payload})
    while socket.poll(3000):  # silent for three beats: subscribe again
        event = socket.recv_json()
        if event["kind"] == "welcome":
            for topic, seq in event["payload"]["seqs"].items() if epoch else ():
                check(topic, seq + 1)
            epoch, seqs = event["payload"]["epoch"], event["payload"]["seqs"]
        elif event["kind"] != "beat":
            check(event["topic"], event["seq"])
            seqs[event["topic"]] = max(event["seq"], seqs.get(event["topic"], 0))
            print(event["topic"], event["seq"], json.dumps(event["payload"]), flush=True)

"""A web server that counts in a thread, and notes the largest gap between two beats of its pulse.

counter.py PORT
GET /         {"count": …, "largest_gap_us": …, "requests": …, "started": …}
GET /restart  the same, and begins the search for the largest gap anew
"""

import http.server
import json
import sys
import threading
import time


class State:
    count = 0
    requests = 0
    largest_gap = 0.0
    last_beat = time.monotonic()
    started = time.time()


def beat():
    while True:
        time.sleep(0.0005)
        now = time.monotonic()
        State.largest_gap = max(State.largest_gap, now - State.last_beat)
        State.last_beat = now


def count():
    while True:
        time.sleep(0.01)
        State.count += 1


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        State.requests += 1
        answer = {
            "count": State.count,
            "largest_gap_us": round(State.largest_gap * 1e6),
            "requests": State.requests,
            "started": State.started,
        }
        if self.path == "/restart":
            State.last_beat = time.monotonic()
            State.largest_gap = 0.0
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


for work in (beat, count):
    threading.Thread(target=work, daemon=True).start()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()

"""A server of files on this machine, for what is downloaded."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """A server on this machine: files by their place, and what it was asked for."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Server]:
    """A server as long as the block lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            body, moved = served.files.get(self.path), served.moved.get(self.path)
            self.send_response(302 if moved else 404 if body is None else 200)
            headers = {"Location": moved} if moved else {"Content-Length": str(len(body or b""))}
            for name, value in (headers | served.headers.get(self.path, {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        served = Server(f"http://127.0.0.1:{listener.server_port}")
        yield served
        listener.shutdown()

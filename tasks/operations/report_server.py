"""Reports for a browser: `python -m tasks.operations.report_server FOLDER PORT` serves the `report/` folders of runs.

The Prefect UI may link to a page that is served, not to a file. On the loopback interface only.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_SERVED = re.compile(r"/([A-Za-z0-9][A-Za-z0-9._-]*)/report/([A-Za-z0-9][A-Za-z0-9._-]*)")
HEALTH = "/health"


class ReportHandler(SimpleHTTPRequestHandler):
    """Answers for files of reports; everything else is not there."""

    def do_GET(self) -> None:
        """Send a file, or 404."""
        path = unquote(urlsplit(self.path).path)
        if path == HEALTH:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")
        elif _is_served(path, Path(self.directory)):
            super().do_GET()
        else:
            self.send_error(404)

    def do_HEAD(self) -> None:
        """Send the headers of a file, or 404."""
        if _is_served(unquote(urlsplit(self.path).path), Path(self.directory)):
            super().do_HEAD()
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Say nothing: somebody reads a report."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a server on 127.0.0.1; port 0 takes a free one."""
    return ThreadingHTTPServer(("127.0.0.1", port), partial(ReportHandler, directory=str(folder)))


def _is_served(path: str, folder: Path) -> bool:
    if _SERVED.fullmatch(path) is None:
        return False
    # No link that leads out of the folder.
    file = (folder / path.lstrip("/")).resolve()
    return file.is_file() and file.is_relative_to(folder.resolve())


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser(description="Serve the reports of runs on 127.0.0.1.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    given = parser.parse_args()
    with make_server(given.folder, given.port) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()

"""Reports are served, and nothing else of a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tasks.operations.report_server import make_server


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    report = tmp_path / "run-1" / "report"
    report.mkdir(parents=True)
    (report / "index.html").write_text("<p>the report</p>")
    (tmp_path / "run-1" / "run.json").write_text("{}")
    (tmp_path / "secret").write_text("secret")
    (report / "link.txt").symlink_to(Path("/etc/hostname"))
    with make_server(tmp_path, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_report_is_served(url: str) -> None:
    answer = httpx.get(f"{url}/run-1/report/index.html")
    assert (answer.status_code, answer.text) == (200, "<p>the report</p>")
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/run-1/",
        "/run-1/report/",
        "/run-1/run.json",
        "/secret",
        "/run-1/report/../run.json",
        "/run-1/report/%2e%2e%2frun.json",
        "/run-1/report/link.txt",
        "//etc/passwd",
    ],
)
def test_nothing_else_is(url: str, path: str) -> None:
    assert httpx.get(f"{url}{path}").status_code == 404
    assert httpx.head(f"{url}{path}").status_code == 404

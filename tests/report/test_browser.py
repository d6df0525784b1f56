"""The report in a real browser: no console message, no request, nothing wider than the screen."""

from __future__ import annotations

import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import FLAGS, find_browser
from invented_report import invented

from edgemm.measure.table import rows
from edgemm.report.page import write_report
from edgemm.report.run import Run, place_report

pytestmark = pytest.mark.needs("chromium")

LOGGING = ("--enable-logging=stderr", "--v=0")


def open_page(address: str, profile: Path, *more: str) -> tuple[str, str]:
    """The document once all that it loads has come, and what the browser logged."""
    program = find_browser()
    assert program is not None
    given = (f"--user-data-dir={profile}", "--dump-dom", *more, address)
    done = subprocess.run([program, *FLAGS, *LOGGING, *given], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


class Server(http.server.ThreadingHTTPServer):
    """Serves a few texts on localhost and keeps what was asked for.

    `/wait` is answered once `/done` was asked for: a page with that picture is not loaded before it says that it is.
    """

    pages: dict[str, bytes]
    asked: list[str]
    done: threading.Event


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.server.asked.append(self.path)
        if self.path == "/done":
            self.server.done.set()
        elif self.path == "/wait":
            self.server.done.wait(timeout=60)
        body = self.server.pages.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as serving:
        serving.pages, serving.asked, serving.done = {"/wait": b"", "/done": b""}, [], threading.Event()
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def test_the_report_renders_without_a_console_message_or_a_request(
    report: Path, server: Server, tmp_path: Path
) -> None:
    server.pages["/report.html"] = report.read_bytes()
    dom, log = open_page(f"http://127.0.0.1:{server.server_port}/report.html", tmp_path / "profile")
    assert "Every variant, every target" in dom
    assert "<svg" in dom
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
    assert server.asked == ["/report.html"]


def test_a_console_message_and_a_request_would_be_seen(server: Server, tmp_path: Path) -> None:
    server.pages["/bad.html"] = b"<!doctype html><script>console.error('seen')</script><img src=/asked.png>"
    _, log = open_page(f"http://127.0.0.1:{server.server_port}/bad.html", tmp_path / "profile")
    assert [line for line in log.splitlines() if "CONSOLE" in line and "seen" in line]
    assert "/asked.png" in server.asked


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_not_wider_than_the_screen(report: Path, server: Server, tmp_path: Path, width: int) -> None:
    """A frame of that width reports how wide the page inside wants to be; the page itself runs no script."""
    without_policy = re.sub(r"<meta http-equiv[^>]*>", "", report.read_text(encoding="utf-8"))
    server.pages["/report.html"] = without_policy.encode()
    server.pages["/frame.html"] = (
        f"<!doctype html><iframe src=/report.html width={width} height=900></iframe><script>"
        "document.querySelector('iframe').onload = e => { const d = e.target.contentDocument;"
        " document.body.append('WIDTH=' + d.documentElement.scrollWidth + ' IMAGES=' +"
        " [...d.images].filter(i => !i.naturalWidth).length); };</script>"
    ).encode()
    dom, _ = open_page(
        f"http://127.0.0.1:{server.server_port}/frame.html", tmp_path / "profile", "--window-size=1400,1000"
    )
    found = re.search(r"WIDTH=(\d+) IMAGES=(\d+)", dom)
    assert found is not None
    assert int(found[1]) <= width
    assert int(found[2]) == 0  # every picture was decoded


def test_every_sound_plays_under_the_pages_own_policy(report: Path, server: Server, tmp_path: Path) -> None:
    """A frame around the page has its players load; what they load is half a second long, or forbidden."""
    server.pages["/report.html"] = report.read_bytes()
    server.pages["/frame.html"] = (
        b"<!doctype html><link rel=icon href=data:,><img src=/wait><iframe src=/report.html></iframe><script>"
        b"document.querySelector('iframe').onload = e => {"
        b" const sounds = [...e.target.contentDocument.querySelectorAll('audio')]; let open = sounds.length;"
        b" const tell = text => { document.body.append(text); if (!--open) fetch('/done'); };"
        b" for (const sound of sounds) {"
        b"  sound.onloadedmetadata = () => tell('LASTS=' + sound.duration);"
        b"  sound.onerror = () => tell('FAILS');"
        b"  sound.preload = 'auto'; sound.load(); } };</script>"
    )
    dom, log = open_page(f"http://127.0.0.1:{server.server_port}/frame.html", tmp_path / "profile")
    sounds = report.read_text(encoding="utf-8").count("<audio ")
    assert sounds > 0
    assert dom.split("</script>")[-1].count("LASTS=0.5") == sounds
    assert not [line for line in log.splitlines() if "CONSOLE" in line]
    assert sorted(server.asked) == ["/done", "/frame.html", "/report.html", "/wait"]


def test_a_heading_sorts_its_table_and_a_long_table_unfolds(tmp_path: Path, server: Server) -> None:
    """A frame around the page clicks: first a heading twice, then the box that shows all rows."""
    found = invented("ranks")
    write_report(tmp_path / "r.html", title="x", family="fusion", rows=rows(found, resamples=20), measurements=found)
    stages = [(f"stage {i}", f"{i * 7 % 20} s", "1 MB", "x") for i in range(20)]
    place_report(tmp_path / "r.html", tmp_path / "r.html", Run("edgemm run x.toml", stages=stages))
    server.pages["/report.html"] = (tmp_path / "r.html").read_bytes()
    server.pages["/frame.html"] = (
        b"<!doctype html><link rel=icon href=data:,><iframe src=/report.html></iframe><script>"
        b"document.querySelector('iframe').onload = e => {"
        b" const page = e.target.contentDocument, table = page.querySelector('table.stages');"
        b" const times = () => [...table.tBodies[0].rows].map(r => parseInt(r.cells[1].textContent)).join(' ');"
        b" const shown = () => [...table.tBodies[0].rows].filter(r => r.getClientRects().length).length;"
        b" const said = ['SHOWN=' + shown()]; const heading = table.tHead.rows[0].cells[1];"
        b" heading.click(); said.push('UP=' + times()); heading.click(); said.push('DOWN=' + times());"
        b" page.querySelector('#stages-all').click(); said.push('ALL=' + shown());"
        b" document.body.append(said.join(';')); };</script>"
    )
    dom, log = open_page(f"http://127.0.0.1:{server.server_port}/frame.html", tmp_path / "profile")
    said = dom.split("</script>")[-1]
    up = sorted(i * 7 % 20 for i in range(20))
    assert f"SHOWN=10;UP={' '.join(map(str, up))};DOWN={' '.join(map(str, up[::-1]))};ALL=20" in said
    assert not [line for line in log.splitlines() if "CONSOLE" in line]


def test_on_paper_folded_rows_and_closed_details_are_there_and_headings_keep_to_what_follows(
    tmp_path: Path, server: Server
) -> None:
    """The rules for paper, applied on the screen: a frame around the page looks what they did."""
    run = Run("edgemm run x.toml", recipe="seed = 3", stages=[(f"stage {i}", "1 s", "1 MB", "x") for i in range(20)])
    found = invented("answers")
    write_report(tmp_path / "r.html", title="x", family="fusion", rows=rows(found, resamples=20), measurements=found)
    place_report(tmp_path / "r.html", tmp_path / "r.html", run)
    on_paper = re.sub(r"<meta http-equiv[^>]*>", "", (tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "@media print {" in on_paper
    server.pages["/report.html"] = on_paper.replace("@media print {", "@media all {").encode()
    server.pages["/frame.html"] = (
        b"<!doctype html><link rel=icon href=data:,><iframe src=/report.html></iframe><script>"
        b"document.querySelector('iframe').onload = e => {"
        b" const page = e.target.contentDocument, view = e.target.contentWindow;"
        b" const there = item => item.getClientRects().length > 0 && item.checkVisibility();"
        b" const rows = [...page.querySelectorAll('table.stages tbody tr')].filter(there).length;"
        b" const closed = [...page.querySelectorAll('details > :not(summary)')].filter(x => !there(x)).length;"
        b" const alone = [...page.querySelectorAll('h2, h3')]"
        b"  .filter(h => view.getComputedStyle(h).breakAfter != 'avoid');"
        b" document.body.append(`ROWS=${rows} CLOSED=${closed} ALONE=${alone.length}`); };</script>"
    )
    dom, _ = open_page(f"http://127.0.0.1:{server.server_port}/frame.html", tmp_path / "profile")
    assert "ROWS=20 CLOSED=0 ALONE=0" in dom.split("</script>")[-1]

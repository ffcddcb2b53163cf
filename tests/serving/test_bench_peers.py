"""That a peer is left out with its reason, and that one which scores otherwise is no reference."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from feeds.testing_ports import free_ports
from serving.bench_community import feature_spec, trees
from serving.bench_peers import Peer, peers
from serving.bench_server import Server

ROWS = np.linspace(-1, 1, 90, dtype=np.float32).reshape(3, 30)
BOOSTER = trees(feature_spec(), 2)
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
ANSWERS = """
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = sys.argv[2].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


@contextmanager
def answering(scores: list[float], directory: Path) -> Iterator[Peer]:
    """A server that answers any request with these scores."""
    port = free_ports(1)
    arguments = [sys.executable, "-c", ANSWERS, str(port), str(scores)]
    with Server(arguments, {}, directory / "log") as server:
        server.wait(f"http://127.0.0.1:{port}", REQUEST)
        yield Peer("it", "what it is", server, lambda _: REQUEST, lambda reply: reply)


def test_a_peer_with_the_scores_of_the_trees_takes_the_rows(tmp_path: Path) -> None:
    scores = BOOSTER.inplace_predict(ROWS).tolist()
    with answering(scores, tmp_path) as peer:
        peer.take(ROWS, BOOSTER)
        assert peer.server.per_s(0.0) > 0


def test_a_peer_that_scores_otherwise_is_no_reference(tmp_path: Path) -> None:
    scores = BOOSTER.inplace_predict(ROWS[::-1]).tolist()
    with (
        answering(scores, tmp_path) as peer,
        pytest.raises(RuntimeError, match="it scores otherwise than the trees"),
    ):
        peer.take(ROWS, BOOSTER)


@pytest.mark.parametrize(
    ("python", "reason"),
    [(None, "--bentoml-python names no Python with it"), (Path(sys.executable), "did not answer")],
)
def test_bentoml_is_left_out_with_its_reason_where_it_is_not_installed(
    python: Path | None, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with peers(tmp_path, BOOSTER, python, ["BentoML"]) as found:
        assert found == []
    told = capsys.readouterr().err
    assert told.startswith("BentoML is left out: ")
    assert reason in told

"""A model's folder for a hub, and `hf:OWNER/NAME`, against a server on this machine that answers as a hub does."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from modiff import Predictor, load_model
from modiff.cli import main
from modiff.errors import CheckpointError, ConfigError
from modiff.io import write_png
from modiff.report.published import write_published

COMMIT = "0" * 39 + "1"


class Hub(BaseHTTPRequestHandler):
    """GET and HEAD of one model, `owner/name`, whose files lie in `folder`."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        if re.match(r"/api/models/owner/name(/revision/\w+)?$", path):
            files = [{"rfilename": file.name} for file in self.folder.iterdir()]
            return self._send(json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": files}).encode())
        if re.match(r"/api/models/owner/name/tree/", path):
            files = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "1"} for f in self.folder.iterdir()
            ]
            return self._send(json.dumps(files).encode())
        name = path.rpartition("/")[2]
        if path.startswith("/owner/name/resolve/") and (self.folder / name).is_file():
            return self._send((self.folder / name).read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{name}"'})
        return self._send(b"{}", status=404)

    do_HEAD = do_GET

    def _send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published("lidc", tmp_path_factory.mktemp("hub") / "model", licence="apache-2.0")


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths that a hub with this model was asked for."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed (extra hub)")
    asked: list[str] = []
    handler = type("One", (Hub,), {"folder": published, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield asked
    server.shutdown()
    server.server_close()


def test_the_folder_is_a_model_with_a_card_that_hubs_read(published: Path) -> None:
    _, header, text = (published / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "modiff",
        "license": "apache-2.0",
        "pipeline_tag": "image-segmentation",
        "tags": ["medical-imaging", "multi-rater", "uncertainty", "modiff"],
    }
    assert "Not a medical device" in text
    assert re.search(r"\| ged \| standard \| 16 \| test \| 0\.220 \(0\.197 to 0\.249\) \|", text)
    assert load_model(published).card["licence"] == "apache-2.0"


def test_a_hubs_model_is_the_one_that_was_published(
    hub: list[str], published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 255, (128, 128), np.uint8)
    ours, theirs = (Predictor(load_model(name)).set_image(image).sample(2) for name in (published, "hf:owner/name"))
    assert torch.equal(ours.maps, theirs.maps)
    assert not any("README" in path and "resolve" in path for path in hub)
    write_png("image.png", image)
    assert main(["sample", "hf:owner/name@main", "image.png", "-n", "1", "--steps", "1", "--select", "iid"]) == 0


def test_what_cannot_be_fetched_is_one_line(hub: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="hf:owner/other: cannot be fetched"):
        load_model("hf:owner/other")
    with pytest.raises(CheckpointError, match="is not a hub's model; expected hf:OWNER/NAME"):
        load_model("hf:owner/../name/x")
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"needs huggingface_hub\. Install it: pip install 'modiff\[hub\]'"):
        load_model("hf:owner/name")


def test_onnx_files_are_of_the_published_weights_and_named_in_the_card(tmp_path: Path, monkeypatch) -> None:
    def write(model: object, folder: Path, about: dict[str, object]) -> list[str]:
        written.append((model, about))
        (folder / "encoder.onnx").write_bytes(b"")
        return ["encoder.onnx"]

    written: list[tuple] = []
    monkeypatch.setattr("modiff.report.published.write_onnx", write)
    assert main(["publish", "lidc", str(tmp_path / "model"), "--onnx"]) == 0
    assert "| ONNX | encoder.onnx |" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    ((model, about),) = written
    assert about["intensity"]
    for ours, theirs in zip(
        model.state_dict().values(), load_model(tmp_path / "model").model.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("licence", ["", "bad: licence\nx"])
def test_what_is_not_a_licence_is_refused(licence: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a licence of the hub"):
        write_published("lidc", tmp_path / "model", licence=licence)

"""A viewer's server in this process, and requests to it as any program could make them."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

from described import spec
from discs import Discs

from modiff.config.evaluation import SampleConfig
from modiff.prediction.predictor import Predictor
from modiff.prediction.settings import Settings


def known_predictor(classes: int = 1, channels: Sequence[str] = ("image",), **more: Any) -> Predictor:
    """Discs about the brightest pixel of a window of 32×32."""
    names = ("nodule",) if classes == 1 else ("rim", "core")
    about = {"size": (32, 32), "intensity": "minmax-slice", "prompt": "centre", "classes": names}
    model = Discs(classes=classes, channels=len(channels))
    return Predictor(model, data=spec(about | {"channels": tuple(channels)} | more))


def viewer_of(*images: object, save: Path, predictor: Predictor | None = None, **settings: Any) -> Any:
    """A `Viewer` as `modiff view` makes it."""
    from modiff.cli.sampling import maker_with
    from modiff.view.scene import open_scene
    from modiff.view.viewer import Viewer

    scene = open_scene([str(image) for image in images])
    predictor = predictor or known_predictor()
    scene, paths, _ = scene.arranged(predictor.data.channels)

    def told(prediction: Any) -> dict[str, Any]:
        return maker_with(predictor, "discs").about(prediction, paths)

    made = Settings(**{"n": 6, **settings})
    assert isinstance(made, SampleConfig)
    return Viewer(scene, predictor, made, model="discs", about=told, save=save)


@dataclass
class Visit:
    """A page's address, taken apart."""

    viewer: Any
    address: str = field(init=False)

    def __post_init__(self) -> None:
        from modiff.view.server import serve

        told: Queue[str] = Queue()
        threading.Thread(target=serve, args=(self.viewer,), kwargs={"opened": told.put}, daemon=True).start()
        self.address = told.get(timeout=60)
        self.host, self.token, _ = self.address.removeprefix("http://").split("/")

    def ask(self, path: str, body: Any = None, *, token: str | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and content. body: sent as JSON. headers: further ones, with _ for -."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        where = f"/{self.token if token is None else token}/{path}"
        if body is None:
            connection.request("GET", where, headers=more)
        else:
            more.setdefault("Content-Type", "application/json")
            connection.request("POST", where, body if isinstance(body, bytes) else json.dumps(body), more)
        answer = connection.getresponse()
        self.headers = dict(answer.getheaders())
        found = answer.status, answer.read()
        connection.close()
        return found

    def told(self, path: str, body: Any = None) -> Any:
        """The JSON of a request that is answered."""
        status, data = self.ask(path, body)
        assert status == 200, data
        return json.loads(data)

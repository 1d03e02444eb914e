"""Damage: a flipped bit in what modiff wrote is refused or changes nothing; it never gives another result unseen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from random import Random
from typing import Any

from tools.campaign.run import Target, Try
from tools.campaign.scenes import World

_QUICK = {"info": 3, "evaluate-on": 2, "score-drawn": 1, "resume": 1, "import-on": 1, "tables": 1}


def targets(world: World) -> dict[str, Target]:
    """Every file of modiff's own in every scene."""
    found = {}
    for name, scene in world.scenes.items():
        for victim in world.victims(name, scene.own):
            action = partial(_flip, world, name, victim)
            found[f"{name}:{victim}"] = Target(action, quick=_QUICK.get(name, 0))
    return found


def _flip(world: World, name: str, victim: str, attempt: Try, rng: Random) -> None:
    scene, clean = world.lay(name, attempt), world.clean(name)
    path = attempt.place / victim
    data = bytearray(path.read_bytes())
    bit = rng.randrange(8 * len(data))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    outcome = attempt.run(scene.words, (0, 1, 2) if scene.words[0] == "benchmark" else (0, 2))
    if outcome.status == 0:
        kept = path.exists() and path.read_bytes() == data
        try:
            result = scene.result(attempt.place, outcome)
        except ValueError as error:
            result = {"made": error}
        differs = clean.differs(result, [victim] if kept else [])
        silent = _mentions(result, path.name) <= _mentions(clean.result, path.name)
        attempt.check(not (differs and silent), f"bit {bit}: another result in silence: {', '.join(differs[:4])}")
    attempt.check_clean()


def _mentions(result: Mapping[str, Any], name: str) -> int:
    """How often a result speaks of a file: a page may say what is wrong in place of a figure."""
    return sum(str(content).count(name) for content in result.values() if not isinstance(content, bytes))

"""The campaign: its quick subset finds nothing; and it can fail, says how to repeat a try, and repeats it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

ROOT = Path(__file__).parents[2]
KINDS = ("planted", "flips", "fuzz", "bombs", "names", "canaries", "kills", "places", "pairs", "locks")


@pytest.fixture(autouse=True)
def root(monkeypatch):
    """`tools` is a package of the repository's root."""
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """The table of the quick subset, made in a process of its own: forking wants one without threads."""
    table = tmp_path_factory.mktemp("campaign") / "table.json"
    words = [sys.executable, "-m", "tools.campaign", "--quick", "--json", str(table)]
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert table.exists(), done.stderr
    return {row["kind"]: row for row in json.loads(table.read_text())}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_quick_subset_finds_nothing(rows, kind):
    assert rows[kind]["tries"] > 0
    assert not rows[kind]["failed"], json.dumps(rows[kind]["failed"], indent=1)


def test_a_failure_is_counted_and_can_be_repeated(tmp_path, capsys):
    kit, run = importlib.import_module("tools.campaign.__main__"), importlib.import_module("tools.campaign.run")
    numbers = []

    def action(attempt, rng):
        numbers.append(rng.random())
        attempt.check(False, "what was wrong")

    row = kit.Row("flips")
    for _ in range(2):
        kit.Campaign(None, tmp_path, seed=3).attempt(row, "some:target", run.Target(action), 5)
    assert row.tries == row.failures == 2
    assert "--seed 3 --only 'flips/some:target/5'" in capsys.readouterr().out
    assert numbers == [Random("3/flips/some:target/5").random()] * 2


def test_a_fuzzed_file_is_the_same_for_the_same_seed(tmp_path):
    formats = importlib.import_module("tools.campaign.formats")
    sound = json.dumps({"a": [1, 2, {"b": "c"}], "d": None}).encode()
    made = []
    for _ in range(2):
        rng = Random(7)
        for number in range(50):
            path = tmp_path / f"{number}.json"
            path.write_bytes(sound)
            formats.mutate(path, rng)
            made.append(path.read_bytes())
    assert made[:50] == made[50:]
    assert len(set(made)) > 30

"""What the front page shows is what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edgesparse.architectures import ARCHITECTURES
from edgesparse.cli.verbs import VERBS

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "native/README.md"]


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_verbs_are_those_of_the_program(readme: str) -> None:
    assert re.findall(r"^\| `edgesparse (\w+)` \|", readme, re.M) == [verb.name for verb in VERBS]


def test_the_families_are_those_that_run(readme: str) -> None:
    row = re.findall(r"^\| families \|.*", readme, re.M)[0]
    assert set(re.findall(r"`([^`]+)`", row)) == set(ARCHITECTURES)


def test_the_tree_is_there(readme: str) -> None:
    tree = re.findall(r"```\n(edgesparse/\n.*?)```", readme, re.S)[0]
    folder, n_entries = "", 0
    for line in tree.splitlines():
        entry = line.split()[0]
        if not line.startswith(" "):
            folder = entry
        path = ROOT / (entry if not line.startswith(" ") else folder + entry)
        assert path.exists(), line
        n_entries += 1
    assert n_entries >= 25
    named = {name.rstrip("/") for name in re.findall(r"^  (\S+/)", tree, re.M)}
    packages = {path.parent.name for path in (ROOT / "edgesparse").glob("*/__init__.py")}
    assert packages <= named, "a package is missing from the tree"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links or page == "native/README.md"
    for link in links:
        assert ((ROOT / page).parent / link).exists(), link


def test_the_example_runs(readme: str) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Paris" in done.stdout
    assert "(5, 49152)" in done.stdout

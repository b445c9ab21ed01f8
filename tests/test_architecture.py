"""The rooms and their arrows: ``errors <- spec <- store <- {extract, heads, doors}``, the demo and `cli` above."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "emocache"
ALLOWED = {
    "errors": set(),
    "spec": {"errors"},
    "store": {"errors", "spec"},
    "extract": {"errors", "spec", "store"},
    "heads": {"errors", "spec", "store"},
    "doors": {"errors", "spec", "store"},
    "demo": {"errors"},
    "cli": {"errors", "demo", "cli_doors", "cli_fit", "cli_heads", "cli_options", "cli_share", "cli_store", "cli_text"},
    "cli_doors": {"cli_store", "cli_text"},
    "cli_fit": {"cli_options", "cli_store", "cli_text"},
    "cli_heads": {"cli_options", "cli_store", "cli_text"},
    "cli_options": set(),
    "cli_share": {"cli_store", "cli_text"},
    "cli_store": {"cli_text"},
    "cli_text": set(),
}
"""What each room may import besides itself and the public face (`emocache`), for `demo` and the `cli` files alone."""
MEETING_POINTS = {"extract": {"target.py"}, "heads": {"matrix.py"}}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def imports(path: Path) -> list[str]:
    """Every module that a file imports, at its top or inside a function, type checking excepted."""
    found: list[str] = []
    tree = ast.parse(path.read_text())
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    for guard in guards:
        guard.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [
                f"{node.module}.{alias.name}" if node.module == "emocache" else str(node.module) for alias in node.names
            ]
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_the_rooms_below_its_own(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "emocache":
            continue
        target = parts[1] if len(parts) > 1 else "face"
        if target == "__version__" or target == here or target in ALLOWED[here]:
            continue
        assert here == "demo" or here.startswith("cli"), f"{path.name}: {here} must not import {name}"
        assert not (PACKAGE / target).exists(), f"{path.name}: {here} must not import {name}"


@pytest.mark.parametrize("here", sorted(MEETING_POINTS))
def test_extract_and_heads_meet_the_store_where_the_design_says(here: str) -> None:
    meeting = {
        path.name
        for path in (PACKAGE / here).rglob("*.py")
        if any(name.startswith("emocache.store") for name in imports(path))
    }
    assert meeting == MEETING_POINTS[here]


@pytest.mark.parametrize(
    ("command", "forbidden"),
    [
        ("import emocache.cli", "torch zarr pandas numpy sklearn"),
        ("import emocache; emocache.open_store", "torch zarr"),
        ("import emocache; emocache.list_encoders()", "torch transformers"),
        ("import emocache.extract.worker, emocache.extract.media.audio", "torch transformers pandas"),
    ],
)
def test_what_must_be_light_loads_nothing_heavy(command: str, forbidden: str) -> None:
    code = f"{command}; import sys; print(sorted(set({forbidden.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_face_gives_what_it_names_and_nothing_else() -> None:
    import emocache

    assert sorted(emocache._HOME) == emocache.__all__
    for name in emocache.__all__:
        assert getattr(emocache, name).__doc__
        assert getattr(emocache, name) is getattr(emocache, name)
    with pytest.raises(AttributeError, match="module 'emocache' has no attribute 'extract_all'"):
        _ = emocache.extract_all  # type: ignore[attr-defined]

"""What is published: its contents, what the index shows of it, and the files that build and publish it."""

from __future__ import annotations

import email
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import shiftsearch

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
ADDRESS = "https://github.com/shiftsearch/shiftsearch"
PROJECT = ROOT / "pyproject.toml"

pytestmark = [
    pytest.mark.xdist_group("package"),  # one process builds
    pytest.mark.skipif(not PROJECT.exists(), reason="needs a checkout"),
]


def command(*words) -> subprocess.CompletedProcess[str]:
    """Run a module of Python, and return what it said."""
    return subprocess.run([sys.executable, "-m", *map(str, words)], capture_output=True, text=True, cwd=ROOT)


def tool(name: str, *words) -> str:
    """Return what a tool says of the package, or skip the test if the tool is not installed."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name.replace('_', '-')}, which .ci/run installs where it can")
    done = command(name, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """Return the sdist of this checkout and the wheel that is built from the sdist."""
    for name in ("build", "hatchling", "hatch_fancy_pypi_readme"):
        pytest.importorskip(name)
    folder = tmp_path_factory.mktemp("dist")
    done = command("build", "--no-isolation", "--outdir", folder, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def metadata(built) -> email.message.Message:
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(wheel.read(name))


@pytest.fixture(scope="module")
def project() -> dict:
    import tomllib

    return tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]


def described(path: Path) -> dict:
    """Return what a file of YAML says."""
    yaml = pytest.importorskip("yaml")
    if not path.exists():
        pytest.skip("needs a checkout")
    return yaml.safe_load(path.read_text(encoding="utf-8"))


# --- contents ---------------------------------------------------------------------------------------
def test_the_wheel_has_modules_sources_of_kernels_and_types(built):
    assert built[1].name == f"shiftsearch-{shiftsearch.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(built[1]).namelist())
    assert {"shiftsearch/cuda_src/grid.cuh", "shiftsearch/py.typed"} <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "shiftsearch").rglob("*.py")} <= names
    assert not [name for name in names if not name.startswith("shiftsearch") or "__pycache__" in name]


def test_the_sdist_has_all_that_its_tests_and_readers_need(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    folders = ("shiftsearch", "cuda_src", "tests", "examples", "docs")
    files = [
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not _is_waste(path.relative_to(ROOT))
    ]
    wanted = {path.relative_to(ROOT).as_posix() for path in files}
    assert {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "LICENSE",
    } | wanted <= names
    assert not [name for name in names if _is_waste(Path(name))]


def _is_waste(path: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in path.parts[1:]) or path.suffix == ".pyc"


# --- what the index shows ---------------------------------------------------------------------------
@pytest.mark.full
def test_the_index_would_take_both_files(built):
    tool("twine", "check", "--strict", *built)


@pytest.mark.full
def test_the_wheel_has_nothing_that_a_wheel_should_not_have(built):
    tool("check_wheel_contents", built[1])


@pytest.mark.full
def test_the_metadata_lacks_nothing(built):
    assert "Final rating: 10/10" in tool("pyroma", "-n", "10", built[0])


def test_links_on_the_index_lead_to_files_of_this_version(metadata):
    text = metadata.get_payload()
    assert metadata["Description-Content-Type"] == "text/markdown"
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)", text) + re.findall(r"()(?:src|href)=\"([^\"]+)", text)
    assert len(links) > 3
    raw = ADDRESS.replace("github.com", "raw.githubusercontent.com")
    for picture, link in links:
        assert link.startswith(("https://", "mailto:", "#")), f"{link} is relative"
        ours = f"{raw if picture else ADDRESS + '/blob'}/v{shiftsearch.__version__}/"
        if link.startswith(ours):
            path = link.removeprefix(ours).partition("#")[0]
            assert (ROOT / path).exists(), f"{path} does not exist"
        else:
            assert not link.startswith((raw, f"{ADDRESS}/blob")), f"{link} is of no version"


def test_the_metadata_says_what_pyproject_says(metadata, project):
    assert metadata["Version"] == shiftsearch.__version__
    assert "@" in metadata["Author-email"]
    assert {line.partition(", ")[0] for line in metadata.get_all("Project-URL")} == set(project["urls"])
    assert metadata.get_all("Classifier") == project["classifiers"]
    assert set(metadata.get_all("Provides-Extra")) == set(project["optional-dependencies"])


# --- the files that build and publish ---------------------------------------------------------------
def pythons(project) -> list[str]:
    found = [re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", line) for line in project["classifiers"]]
    return [match[1] for match in found if match]


def test_each_python_that_is_named_is_tested_on_each_system(project):
    matrix = described(GITHUB / "workflows" / "tests.yml")["jobs"]["quick"]["strategy"]["matrix"]
    assert matrix["python"] == pythons(project)
    assert project["requires-python"] == f">={pythons(project)[0]}"
    systems = {"ubuntu": "POSIX :: Linux", "windows": "Microsoft :: Windows", "macos": "MacOS"}
    named = {line.partition(" :: ")[2] for line in project["classifiers"] if line.startswith("Operating System")}
    assert {systems[system.partition("-")[0]] for system in matrix["system"]} == named


def test_publishing_follows_all_tests_and_has_no_secret():
    jobs = described(GITHUB / "workflows" / "publish.yml")["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"
    assert jobs["build"]["needs"] == "tests"
    assert jobs["tests"]["uses"] == "./.github/workflows/tests.yml"
    assert not [job for name, job in jobs.items() if name != "publish" and "permissions" in job]
    for path in (GITHUB / "workflows").glob("*.yml"):
        assert "secrets." not in path.read_text(encoding="utf-8"), path.name


def test_the_recipe_for_conda_has_the_versions_of_pyproject(project):
    recipe = described(GITHUB / "conda-forge" / "recipe.yaml")
    assert recipe["context"]["version"] == shiftsearch.__version__
    assert f">={recipe['context']['python_min']}" == project["requires-python"]
    needed = {line.replace(" ", "") for line in recipe["requirements"]["run"] if not line.startswith("python ")}
    assert needed == {line.replace(" ", "") for line in project["dependencies"]}
    assert recipe["build"]["python"]["entry_points"] == [
        f"{name} = {place}" for name, place in project["scripts"].items()
    ]
    about = recipe["about"]
    assert (about["license"], about["summary"]) == (project["license"], project["description"])
    assert about["homepage"] == project["urls"]["Homepage"]


def test_the_recipe_allows_the_versions_that_the_extras_ask_for(project):
    names = {"cupy": "cupy-cuda13x", "pytorch": "torch"}
    asked = {line for extra in project["optional-dependencies"].values() for line in extra}
    for line in described(GITHUB / "conda-forge" / "recipe.yaml")["requirements"]["run_constraints"]:
        name, version = line.split()
        assert f"{names.get(name, name)}{version}" in asked

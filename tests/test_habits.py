"""What developers agreed on and no linter checks."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).resolve().parents[1]


def test_pre_commit_runs_what_make_lint_runs() -> None:
    hooks = _hooks(yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text(encoding="utf-8")))
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    commands = [command.strip().removeprefix("@") for command in re.split(r"&&|\n", recipe[1])]
    linters = [c.replace("$(BIN)", ".venv/bin") for c in commands if c.startswith("$(BIN)")]
    assert len(linters) == 3 and linters == [hook["entry"] for hook in hooks]
    # Nothing is fetched, and all files are looked at, as make does.
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in hooks)


def _hooks(config: dict[str, Any]) -> list[dict[str, Any]]:
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    return [hook for repo in config["repos"] for hook in repo["hooks"]]


@pytest.mark.parametrize("folder", ["hwautoml", "benchmarks"])
def test_what_types_leave_unchecked_has_a_code_and_a_reason(folder: str) -> None:
    bare = [
        f"{path.relative_to(CHECKOUT)}:{number}"
        for path in sorted((CHECKOUT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "# type: ignore" in line and not re.search(r"# type: ignore\[[\w, -]+\]  # \w", line)
    ]
    assert not bare, f"write `# type: ignore[code]  # reason`: {bare}"


def test_the_readme_leads_to_contributing() -> None:
    assert "(CONTRIBUTING.md)" in (CHECKOUT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md"])
def test_links_lead_to_files(page: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (CHECKOUT / page).read_text(encoding="utf-8"))
    missing = [link for link in links if not (CHECKOUT / link).exists()]
    assert links and not missing, missing

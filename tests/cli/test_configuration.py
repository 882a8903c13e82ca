"""`runnerd config`: problems all at once, values with their origin."""

import json
from pathlib import Path


def test_check_good(invoke) -> None:
    """A good configuration says which file it read, or that there is none."""
    result = invoke("config", "check")
    assert (result.exit_code, result.stdout) == (0, "no config file, all defaults: good\n")
    Path("c.toml").write_text("[server]\nport = 1\n")
    result = invoke("config", "check", "--config", "c.toml")
    assert (result.exit_code, result.stdout) == (0, f"{Path('c.toml').absolute()}: good\n")


def test_check_tells_of_sizes(invoke) -> None:
    """Each size that a table lists is said with the label that asks for it."""
    Path("c.toml").write_text('[images.default]\nlabels = ["debian-12"]\nsizes = ["4cpu-8gb"]\n')
    said = invoke("config", "check", "-c", "c.toml").stdout.splitlines()
    assert said[1:] == [
        "runs-on: debian-12-4cpu-8gb (or another label of images.default with -4cpu-8gb): 4 vCPUs, 8192 MiB"
    ]


def test_check_bad(invoke) -> None:
    """Every problem is named with its place, and the exit status is 2."""
    Path("c.toml").write_text("[server]\nprot = 1\nport = 99999\n")
    result = invoke("config", "check", "-c", "c.toml")
    assert result.exit_code == 2
    assert result.stderr.count(": error: ") == 2
    assert "did you mean 'port'?" in result.stderr


def test_check_json(invoke) -> None:
    """Programs get the same problems as data."""
    Path("c.toml").write_text("[server]\nprot = 1\n")
    result = invoke("config", "check", "-c", "c.toml", "--json")
    assert result.exit_code == 2
    (problem,) = json.loads(result.stdout)["problems"]
    assert problem["place"].endswith("c.toml:2:1")


def test_check_for_serving(invoke) -> None:
    """With --serve, the missing webhook secret is a problem too."""
    assert invoke("config", "check").exit_code == 0
    result = invoke("config", "check", "--serve")
    assert result.exit_code == 2
    assert "no webhook secret" in result.stderr
    assert invoke("config", "check", "--serve", GITHUB_WEBHOOK_SECRET="s").exit_code == 0


def test_show(invoke) -> None:
    """Values read like the file, secrets hidden."""
    result = invoke("config", "show", PORT="4000", GITHUB_TOKEN="hunter2")
    assert "server.port = 4000\n" in result.stdout
    assert "forge.token = ***\n" in result.stdout
    assert "hunter2" not in result.output


def test_show_origin(invoke) -> None:
    """With --origin each value says where it came from."""
    result = invoke("config", "show", "server.port", "--origin", PORT="4000")
    assert result.stdout.splitlines()[1].split(maxsplit=2) == ["server.port", "4000", "environment PORT"]


def test_show_json(invoke) -> None:
    """Programs get value and origin by key."""
    result = invoke("config", "show", "webhook", "--json", GITHUB_WEBHOOK_SECRET="s")
    assert json.loads(result.stdout) == {
        "webhook.secret": {"value": "***", "origin": "environment GITHUB_WEBHOOK_SECRET"},
        "webhook.previous_secret": {"value": '""', "origin": "default"},
    }


def test_show_unknown_section(invoke) -> None:
    """A section that does not exist is a mistake, not an empty answer."""
    result = invoke("config", "show", "nowhere")
    assert result.exit_code == 2
    assert "no key begins with 'nowhere'" in result.stderr

"""Precedence, problems with their places, and the config.toml of the distribution."""

import tomllib
from pathlib import Path

import msgspec
import pytest

from runnerd.config import Config, ConfigErrors, check, load
from runnerd.config.loading import ORIGINAL
from runnerd.config.sections import Secret

SHIPPED = Path(__file__).parents[2] / "config.toml"
HOME = {"HOME": "/nonexistent/home"}


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text)
    return path


def problems(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    return [str(problem) for problem in check(path, environ={**HOME, **(environ or {})})]


def sections(config: Config) -> dict[str, object]:
    return {
        field.name: getattr(config, field.name)
        for field in msgspec.structs.fields(Config)
        if field.name != "settings"
    }


def test_shipped_file_is_the_default() -> None:
    """The config.toml of the distribution parses to exactly the defaults."""
    assert sections(load(SHIPPED, environ=HOME)) == sections(load(None, environ=HOME))


def test_shipped_file_has_every_key() -> None:
    """Each key of each section stands in config.toml, with a comment above its group."""
    written = tomllib.loads(SHIPPED.read_text())
    defaults = load(None, environ=HOME)
    keys = {setting.key for setting in defaults.origins() if "." in setting.key}
    for key in keys:
        table: object = written
        for part in key.split("."):
            assert isinstance(table, dict)
            assert part in table, key
            table = table[part]
    lines = SHIPPED.read_text().splitlines()
    for number, line in enumerate(lines):
        if line.startswith("["):
            assert any(
                text.startswith("#") for text in (lines[number - 1], *lines[number + 1 : number + 2])
            ), line


def test_precedence(tmp_path: Path) -> None:
    """Flag, own variable, original variable, file, default: the first that speaks is believed."""
    path = write(tmp_path, "[server]\nport = 4000\n")
    original = {**HOME, "PORT": "4001"}
    own = {**original, "RUNNERD_SERVER_PORT": "4002"}
    assert load(None, environ=HOME).server.port == 3000
    assert load(path, environ=HOME).server.port == 4000
    assert load(path, environ=original).server.port == 4001
    assert load(path, environ=own).server.port == 4002
    assert load(path, environ=own, flags={"server.port": 4003}).server.port == 4003
    assert load(path, environ=own, flags={"server.port": None}).server.port == 4002


def test_origins(tmp_path: Path) -> None:
    """Each setting says where it came from, and secrets stay hidden."""
    path = write(tmp_path, '[server]\nhost = "::1"\n')
    environ = {**HOME, "PORT": "4001", "GITHUB_TOKEN": "hunter2", "STATE_DIRECTORY": "/s"}
    config = load(path, environ=environ, flags={"pool.min_idle": 3})
    shown = {setting.key: (setting.value, setting.origin) for setting in config.origins()}
    assert shown["server.host"] == ('"::1"', f"file {path}:2")
    assert shown["server.port"] == ("4001", "environment PORT")
    assert shown["forge.token"] == ("***", "environment GITHUB_TOKEN")
    assert shown["pool.min_idle"] == ("3", "flag")
    assert shown["parser.workers"] == ("2", "default")
    assert shown["state_directory"] == ("/s", "environment STATE_DIRECTORY")
    assert "hunter2" not in str(config)


def test_original_variables() -> None:
    """Every variable of the original server sets its key."""
    environ = {
        "PORT": "1", "HOST": "::", "GITHUB_WEBHOOK_SECRET": "a", "GITHUB_TOKEN": "b",
        "FIRECRACKER_API_URL": "http://f:1", "FIRECRACKER_AUTH_TOKEN": "c", "USE_LLM_PARSER": "true",
        "OLLAMA_BASE_URL": "http://o:1", "OLLAMA_MODEL": "gemma", "OPENROUTER_API_KEY": "d",
        "OPENROUTER_MODEL": "m/n",
    }  # fmt: skip
    assert set(environ) == set(ORIGINAL.values())
    config = load(None, environ={**HOME, **environ})
    assert (config.server.port, config.server.host) == (1, "::")
    assert config.secrets() == ("a", "b", "c", "d")
    assert (config.machines.firecracker_api_url, config.machines.driver_name) == ("http://f:1", "fcctl")
    assert (config.llm.use, config.llm.ollama_base_url, config.llm.ollama_model) == (
        True,
        "http://o:1",
        "gemma",
    )
    assert config.llm.openrouter_model == "m/n"


def test_empty_variable_is_unset() -> None:
    """A variable that is set to nothing decides nothing."""
    assert load(None, environ={**HOME, "PORT": ""}).server.port == 3000


def test_list_from_environment() -> None:
    """A list is written with commas in a variable."""
    config = load(None, environ={**HOME, "RUNNERD_IMAGES_DEFAULT_LABELS": "a, b,c"})
    assert config.images["default"].labels == ("a", "b", "c")


def test_secret_files(tmp_path: Path) -> None:
    """A secret comes from NAME_FILE or from systemd's credential, without its final newline."""
    (tmp_path / "s").write_text("from file\n")
    (tmp_path / "github_token").write_text("from credential")
    environ = {
        **HOME,
        "GITHUB_WEBHOOK_SECRET_FILE": str(tmp_path / "s"),
        "CREDENTIALS_DIRECTORY": str(tmp_path),
    }
    config = load(None, environ=environ)
    assert config.webhook.secret == Secret("from file")
    assert config.forge.token == Secret("from credential")
    assert config.why_not_serve() is None


def test_secret_file_problems(tmp_path: Path) -> None:
    """A secret file that is absent, empty, binary or beside the variable itself is a problem."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "good").write_text("x")
    found = problems(
        None,
        {
            "GITHUB_WEBHOOK_SECRET_FILE": str(tmp_path / "absent"),
            "GITHUB_TOKEN_FILE": str(tmp_path / "empty"),
            "FIRECRACKER_AUTH_TOKEN_FILE": str(tmp_path / "binary"),
            "OPENROUTER_API_KEY_FILE": str(tmp_path / "good"),
            "OPENROUTER_API_KEY": "y",
        },
    )
    assert found == [
        f"GITHUB_WEBHOOK_SECRET_FILE: error: {tmp_path}/absent cannot be read: No such file or directory",
        f"GITHUB_TOKEN_FILE: error: {tmp_path}/empty is empty",
        f"FIRECRACKER_AUTH_TOKEN_FILE: error: {tmp_path}/binary is not UTF-8 text",
        "OPENROUTER_API_KEY_FILE: error: OPENROUTER_API_KEY is set as well: keep one of the two",
    ]


def test_every_problem_at_once(tmp_path: Path) -> None:
    """All mistakes are reported together, each with its line, column and what was probably meant."""
    path = write(
        tmp_path,
        """\
[server]
prot = 1
port = "3000"
max_connections = 0
[forge]
kind = "gitlab"
api = "ftp://x"
token = 5
[sever]
[match]
mode = "labels"
[repositories."no name"]
remote = "x"
[repositories."a/b"]
remotes = "x"
[images.other]
packages = ["ok", "not ok"]
""",
    )
    found = problems(path, {"RUNNERD_SERVER_PROT": "1", "RUNNERD_LOG": "loud", "RUNNERD_POOL_MIN_IDLE": "-1"})
    assert sorted(found) == sorted(
        [
            f"{path}:2:1: error: unknown key 'prot' in [server]; did you mean 'port'?",
            f"{path}:3:1: error: server.port must be a port from 0 to 65535, not '3000'",
            f"{path}:4:1: error: server.max_connections must be a whole number from 1, not 0",
            f'{path}:6:1: error: forge.kind must be one of "github", "gitea", not \'gitlab\'',
            f"{path}:7:1: error: forge.api must be an http:// or https:// address, not 'ftp://x'",
            f"{path}:8:1: error: forge.token must be a string",
            f"{path}:9:2: error: unknown section 'sever'; did you mean 'server'?",
            f"{path}:12:2: error: 'no name' is not a repository's full name (owner/name)",
            f"{path}:15:1: error: unknown key 'remotes' in [repositories.a/b]; did you mean 'remote'?",
            f"{path}:17:1: error: images.other.packages must be a list, each one word of letters, digits "
            "and ._+-, not ['ok', 'not ok']",
            f"{path}:16:2: error: image 'other' claims no labels, so no job would get it",
            "RUNNERD_SERVER_PROT: error: unknown variable; did you mean 'RUNNERD_SERVER_PORT'?",
            "RUNNERD_LOG: error: unknown level 'loud': use one of debug, info, warning, error",
            "RUNNERD_POOL_MIN_IDLE: error: pool.min_idle must be a whole number from 0, not '-1'",
        ]
    )


def test_errors_raise_together(tmp_path: Path) -> None:
    """`load` raises all problems as one error whose text is the list."""
    path = write(tmp_path, "[server]\nport = -1\n[pool]\nmin_idle = -1\n")
    with pytest.raises(ConfigErrors) as caught:
        load(path, environ=HOME)
    assert len(caught.value.problems) == 2
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = = 1\n", "config.toml:2:8: error: Invalid value"),
        ("server = 3\n", "config.toml:1:1: error: server must be a table"),
        ("[repositories]\n'a/b' = 3\n", "config.toml:2:1: error: repositories.a/b must be a table"),
        ("[server]\nport = true\n", "config.toml:2:1: error: server.port must be a port"),
        ("[llm]\nuse = 1\n", "config.toml:2:1: error: llm.use must be true or false, not 1"),
        ("#" * (1 << 20) + "#", "config.toml:1:1: error: larger than"),
    ],
)
def test_unusable_file(tmp_path: Path, text: str, message: str) -> None:
    """A file that cannot be understood is one problem at its place."""
    (found,) = problems(write(tmp_path, text))
    assert message in found


def test_file_that_is_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and an absent file, are problems like any other."""
    path = tmp_path / "config.toml"
    assert "cannot be read" in problems(path)[0]
    path.write_bytes(b"\xff")
    assert "codec can't decode" in problems(path)[0]


def test_image_keeps_default_labels(tmp_path: Path) -> None:
    """Naming one key of the default image leaves its other keys as they were."""
    config = load(write(tmp_path, '[images.default]\npackages = ["jq"]\n'), environ=HOME)
    assert config.images["default"].packages == ("jq",)
    assert "ubuntu-latest" in config.images["default"].labels


def test_state_flag_moves_the_socket() -> None:
    """A state directory given as a flag brings its own socket, unless the environment names one."""
    flags = {"state_directory": "/s"}
    assert load(None, environ=HOME, flags=flags).control_socket == Path("/s/run/control.sock")
    environ = {**HOME, "RUNNERD_SOCKET": "/tmp/x.sock", "XDG_RUNTIME_DIR": "/run/user/1"}
    assert load(None, environ=environ, flags=flags).control_socket == Path("/tmp/x.sock")


def test_socket_path_too_long() -> None:
    """A socket path the kernel would refuse is reported before anything starts."""
    (found,) = problems(None, {"RUNNERD_SOCKET": "/" + "x" * 120})
    assert "107 bytes" in found


def test_unknown_flag() -> None:
    """A flag for a setting that does not exist is a mistake of the program, not of its user."""
    with pytest.raises(ValueError, match="unknown setting"):
        load(None, environ=HOME, flags={"server.prot": 1})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('open = ["10.0.0.0/33"]', "an address or a range"),
        ('open = ["::::"]', "'::::'"),
        ('closed = ["fd00::/129"]', "an address or a range"),
        ('allow = ["*"]', "host, *.host"),
        ('allow = ["*.10.0.0.1"]', "host, *.host"),
        ('allow = ["a..b"]', "host, *.host"),
        ('allow = ["a:65536"]', "host, *.host"),
        ("ports = [0]", "a port from 1"),
        ('policy = "open"', '"none", "guarded", "allowlist"'),
    ],
)
def test_network_problems(tmp_path: Path, line: str, problem: str) -> None:
    """A range, a host or a port that is none is found when the file is read, with its place."""
    path = write(tmp_path, f"[network]\n{line}\n")
    with pytest.raises(ConfigErrors) as caught:
        load(path, environ=HOME)
    assert problem in str(caught.value)
    assert "config.toml:" in str(caught.value)


def test_network_settings(tmp_path: Path) -> None:
    """Ranges and hosts in every form."""
    ranges, hosts = (
        '["10.0.0.0/8", "10.1.2.3", "fd00::/8", "::1"]',
        '["a.example:8443", "*.b-c.example", "1.2.3.4"]',
    )
    network = load(write(tmp_path, f"[network]\nopen = {ranges}\nallow = {hosts}\n"), environ=HOME).network
    assert (len(network.open), len(network.allow)) == (4, 3)


def test_secrets_have_rules_and_variables_have_values(tmp_path: Path) -> None:
    """Names are the operator's own, but those that GitHub keeps for itself; all else is checked."""
    path = tmp_path / "config.toml"
    path.write_text('[secrets.KEY]\nbranches = ["main"]\n[variables]\nLEVEL = "3"\n')
    config = load(path, environ=HOME)
    assert config.secret_rules["KEY"].branches == ("main",)
    assert config.variables == {"LEVEL": "3"}
    path.write_text(
        '[secrets.GITHUB_TOKEN]\n[secrets.KEY]\nbranch = "x"\n[variables]\nA = 3\ngithub_x = "a"\n'
    )
    assert len(problems(path)) == 4


def test_an_image_uses_one_that_is_built(tmp_path):
    """A table may boot from another's build, which must be one, and not change it; sizes have a least."""
    path = write(
        tmp_path,
        '[images.a]\nlabels = ["a"]\nuses = "nowhere"\n'
        '[images.b]\nlabels = ["b"]\nuses = "default"\nmemory = 64\n'
        '[images.c]\nlabels = ["c"]\nuses = "b"\n'
        '[images.d]\nlabels = ["d"]\nuses = "default"\npackages = ["jq"]\n'
        '[images.e]\nlabels = ["e"]\nuses = "default"\nmemory = 512\n'
        '[images.f]\nlabels = ["f"]\nuses = "default"\npreset = "minimal"\n',
    )
    found = problems(path)
    assert [line.split("image ")[1][:3] for line in found] == ["'a'", "'b'", "'c'", "'d'", "'f'"]
    assert "'nowhere'" in found[0]
    assert "128 MiB" in found[1]

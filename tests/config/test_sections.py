"""What a checked configuration offers to those who read it."""

from pathlib import Path

import msgspec
import pytest

from runnerd.config import sections
from runnerd.config.sections import (
    Config,
    Forge,
    Machines,
    Repository,
    Secret,
    Server,
    Snapshots,
    Trust,
    Webhook,
)


def config(**changes: object) -> Config:
    here = Path("/nonexistent")
    places = {"state_directory": here, "runtime_directory": here, "control_socket": here}
    return Config(**{**places, **changes})  # type: ignore[arg-type]


def test_secret_hides_itself() -> None:
    """A secret shows itself in no text form, alone or inside other things, and cannot be encoded."""
    secret = Secret("hunter2")
    texts = (str(secret), repr(secret), f"{secret}", str([secret]), repr(Webhook(secret=secret)))
    assert all("hunter2" not in text and "***" in text for text in texts)
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)
    assert secret.reveal() == "hunter2"


def test_secret_equality() -> None:
    """Secrets are equal by value, and never equal to their text."""
    assert Secret("a") == Secret("a")
    assert hash(Secret("a")) == hash(Secret("a"))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


def test_webhook_secrets() -> None:
    """The current secret comes first; an absent one is not in the list."""
    assert Webhook(previous_secret=Secret("old"), secret=Secret("new")).secrets == ("new", "old")
    assert Webhook().secrets == ()


def test_driver_name() -> None:
    """The driver is qemu, or fcctl when only its address is configured, or what is written."""
    assert Machines().driver_name == "qemu"
    assert Machines(firecracker_api_url="http://x").driver_name == "fcctl"
    assert Machines(firecracker_api_url="http://x", driver="qemu").driver_name == "qemu"


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:9320", ("127.0.0.1", 9320)), ("[::1]:1", ("::1", 1)), ("", None)],
)
def test_metrics_address(text: str, address: object) -> None:
    """The metrics listener's address is split into host and port; empty means none."""
    assert Server(metrics=text).metrics_address == address


def test_remote_of() -> None:
    """A repository comes from its own remote, whatever the case of its name, else from the server."""
    repositories = {"Demo/Hello": Repository(remote="/srv/hello"), "demo/empty": Repository()}
    settings = config(repositories=repositories, forge=Forge(server="https://git.example/"))
    assert settings.remote_of("demo/hello") == "/srv/hello"
    assert settings.remote_of("demo/empty") == "https://git.example/demo/empty.git"
    assert settings.remote_of("a/b.c-d_e") == "https://git.example/a/b.c-d_e.git"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "a",
        "a/b/c",
        "../b",
        "a/..",
        "./b",
        "a/.",
        "-a/b",
        "a/-b",
        "a/b\n",
        "a b/c",
        "a/b?x",
        "ä/b",
        "a/" + "b" * 101,
    ],
)
def test_remote_of_no_name(name: str) -> None:
    """What is no full name never becomes part of an address."""
    with pytest.raises(ValueError, match="not a repository's full name"):
        config().remote_of(name)


def test_secrets() -> None:
    """Every configured secret is listed for redaction."""
    settings = config(
        webhook=Webhook(secret=Secret("a"), previous_secret=Secret("b")),
        forge=Forge(token=Secret("c"), app_private_key=Secret("k")),
        machines=Machines(firecracker_auth_token=Secret("d")),
        llm=sections.Llm(openrouter_api_key=Secret("e")),
    )
    assert settings.secrets() == ("a", "b", "c", "k", "d", "e")


def test_secrets_lists_every_secret_field() -> None:
    """No secret field of any section is forgotten by `secrets`."""
    names = [
        field.name
        for section in msgspec.structs.fields(Config)
        if isinstance(section.default, msgspec.Struct)
        for field in msgspec.structs.fields(type(section.default))
        if Secret in getattr(field.type, "__args__", ())
    ]
    assert sorted(names) == [
        "app_private_key",
        "firecracker_auth_token",
        "openrouter_api_key",
        "previous_secret",
        "secret",
        "token",
    ]


def test_why_not_serve() -> None:
    """Without a webhook secret there is a sentence that names the ways to set it."""
    reason = config().why_not_serve()
    assert reason is not None
    assert "GITHUB_WEBHOOK_SECRET" in reason
    assert config(webhook=Webhook(secret=Secret("s"))).why_not_serve() is None


@pytest.mark.parametrize(
    ("api", "refused"),
    [
        ("https://ghe.example/api/v3", False),
        ("http://ghe.example/api/v3", True),
        ("http://127.0.0.1:8080", False),
        ("http://localhost:8080", False),
    ],
)
def test_a_token_does_not_travel_in_plain_text(api: str, refused: bool) -> None:
    """An API address without TLS is refused together with a token, except on this host itself."""
    given = config(webhook=Webhook(secret=Secret("s")), forge=Forge(api=api, token=Secret("t")))
    reason = given.why_not_serve()
    assert (reason is not None) is refused
    assert config(webhook=Webhook(secret=Secret("s")), forge=Forge(api=api)).why_not_serve() is None


@pytest.mark.parametrize(
    ("forge", "words"),
    [
        (Forge(app_id="7"), "app_private_key"),
        (Forge(app_private_key=Secret("k")), "app_id"),
        (Forge(kind="gitea"), "https://HOST/api/v1"),
        (Forge(server="https://ghe.example", token=Secret("t")), "https://HOST/api/v3"),
        (Forge(app_id="7", app_private_key=Secret("k"), api="http://github.example/api/v3"), "plain text"),
    ],
)
def test_half_an_identity_does_not_serve(forge: Forge, words: str) -> None:
    """Half an App, another forge's token for GitHub, a plain text address: said before the start."""
    reason = config(webhook=Webhook(secret=Secret("s")), forge=forge).why_not_serve()
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "takes a key"), ("STATE/kept.key", "in the state directory"), ("STATE/../other/key", "")],
)
def test_a_key_of_snapshots_lies_elsewhere(tmp_path: Path, key: str, words: str) -> None:
    """Where it is wanted it is named, and never beside what it encrypts, not through a link either."""
    state = tmp_path / "state"
    state.mkdir()
    (tmp_path / "link").symlink_to(state)
    for base in (state, tmp_path / "link"):
        snapshots = Snapshots(secrets=True, key=key.replace("STATE", str(base)))
        given = config(webhook=Webhook(secret=Secret("s")), snapshots=snapshots, state_directory=state)
        assert words in (given.why_not_serve() or "")
        assert bool(words) == (given.why_not_serve() is not None)


def test_an_app_goes_before_a_token() -> None:
    """With both configured the App speaks; without either nobody does."""
    app = Forge(app_id="7", app_private_key=Secret("k"), token=Secret("t"))
    assert (app.as_app, app.named) == (True, True)
    assert (Forge(token=Secret("t")).as_app, Forge(token=Secret("t")).named) == (False, True)
    assert not Forge().named


def test_workflow_folders_follow_the_mode() -> None:
    """The folder GitHub looks at, or in the mode "directory" one of our own; Gitea's own come first."""
    assert config().workflow_folders == (".github/workflows",)
    gitea = config(forge=Forge(kind="gitea")).workflow_folders
    assert gitea == (".forgejo/workflows", ".gitea/workflows", ".github/workflows")
    own = config(match=sections.Match(mode="directory", directory="ci/flows"))
    assert own.workflow_folders == ("ci/flows",)


def test_only_a_github_makes_merge_commits() -> None:
    """A remote elsewhere has none to wait for."""
    elsewhere = {"o/elsewhere": sections.Repository(remote="/srv/git/x")}
    assert config(repositories=elsewhere).merges("o/r")
    assert not config(repositories=elsewhere).merges("o/elsewhere")


def test_pull_request_target_is_off_unless_a_repository_has_it() -> None:
    """One repository's switch is no other's; names are compared as the forge does."""
    given = config(repositories={"O/on": Repository(pull_request_target=True), "o/off": Repository()})
    assert given.targets("o/ON")
    assert not given.targets("o/off")
    assert not given.targets("o/other")


def test_only_allowed_repositories_may_run() -> None:
    """By name or owner in any case, and by number where one is expected; without a list, all."""
    places = {name: Path("/x") for name in ("state_directory", "runtime_directory", "control_socket")}
    assert Config(**places).refuses("o/r", 5) is None
    some = Config(**places, trust=Trust(repositories=("Octo/Hello", "good/*")))
    assert some.refuses("octo/hello", 5) is None
    assert some.refuses("GOOD/any", 5) is None
    assert "not among" in (some.refuses("octo/hello2", 5) or "")
    assert "not among" in (some.refuses("goodx/any", 5) or "")
    pinned = Config(**places, repositories={"o/r": Repository(id=5)})
    assert pinned.refuses("O/R", 5) is None
    assert "expects 5" in (pinned.refuses("o/r", 6) or "")


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("public_url", "https://ci.example:8443/runnerd?x=1#y", True),
        ("public_url", "http://user:word@[::1]:3000", True),
        ("public_url", "https://ci.example/", True),
        ("public_url", "", True),
        ("public_url", "https://[ci/", False),
        ("public_url", "https://ci:99999", False),
        ("public_url", "https://", False),
        ("metrics", "[::1]:9320", True),
        ("metrics", "localhost:65535", True),
        ("metrics", "127.0.0.1:65536", False),
        ("metrics", "a:b:1", False),
    ],
)
def test_an_address_can_be_used(key, value, good):
    """What cannot be taken apart, or has a port that there is not, is found before anybody tries it."""
    if good:
        assert getattr(msgspec.convert({key: value}, Server), key) == value
    else:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({key: value}, Server)

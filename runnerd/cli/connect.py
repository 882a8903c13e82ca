"""`runnerd connect`: joins a repository to the daemon, and says what is missing with its cure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from runnerd.cli import options
from runnerd.cli.output import Code, clean, fail, show_json

if TYPE_CHECKING:
    from runnerd.config import Config
    from runnerd.model import Finding

PATH = "/webhook"


def connect(
    repository: Annotated[
        str, typer.Argument(metavar="[OWNER/REPO]", help="The repository; none with --app.")
    ] = "",
    url: Annotated[
        str,
        typer.Option(metavar="URL", help="Where the forge reaches this daemon; else [server] public_url."),
    ] = "",
    app: Annotated[
        bool, typer.Option("--app", help="Make a GitHub App in the browser; with --json print its manifest.")
    ] = False,
    organization: Annotated[
        str, typer.Option(metavar="NAME", help="With --app: the organization that shall own the App.")
    ] = "",
    config: options.ConfigFile = None,
    json: options.Json = False,
) -> None:
    """Make or mend the webhook, ping it, and check what we may; exit 1 if something is missing."""
    settings = options.load_config(config)
    address = webhook_address(url or settings.server.public_url)
    if app:
        _show_manifest(settings, address, organization, json)
        return
    reason = settings.why_not_serve()
    if reason:
        fail(reason)
    if not settings.forge.named:
        fail(
            "nobody to speak as: set GITHUB_TOKEN, or [forge] app_id and app_private_key "
            "(`runnerd connect --app` helps to make an App)"
        )
    try:
        settings.remote_of(repository)
    except ValueError:
        fail(f"{repository!r} is no repository: write OWNER/REPO")
    findings = examine(settings, repository, address)
    if json:
        show_json([msgspec.structs.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.verdict:<8} {clean(finding.about)}: {clean(finding.found)}")
            if finding.cure:
                typer.echo(f"         → {clean(finding.cure)}")
    problem = any(finding.verdict == "problem" for finding in findings)
    raise typer.Exit(Code.NOT_GREEN if problem else Code.GREEN)


def webhook_address(public: str) -> str:
    """Return the webhook's whole address; empty where the daemon has none that others reach."""
    public = public.rstrip("/")
    if not public:
        return ""
    if not public.startswith(("http://", "https://")):
        fail(f"{public!r} is not an http:// or https:// address")
    return public if public.endswith(PATH) else public + PATH


def examine(settings: Config, repository: str, address: str) -> list[Finding]:
    """Join the repository, as whoever the configuration says we are."""
    import trio

    from runnerd.daemon.serve import open_forge
    from runnerd.forge import connecting

    options.start_logging(settings, quiet=True)
    kind: connecting.Kind = (
        "gitea" if settings.forge.kind == "gitea" else "app" if settings.forge.as_app else "token"
    )

    async def joined() -> list[Finding]:
        async with open_forge(settings) as forge:
            assert forge is not None
            secret = settings.webhook.secrets[0]
            return await connecting.connect(forge, repository, kind=kind, url=address, secret=secret)

    return trio.run(joined)


def _show_manifest(settings: Config, address: str, organization: str, json: bool) -> None:
    from runnerd.forge.connecting import manifest

    if not address:
        fail("an App sends its webhooks somewhere: give --url, or [server] public_url")
    made = manifest(address)
    if json:
        show_json(made)
        return
    from runnerd.cli.connect_app import make

    server = settings.forge.server.rstrip("/")
    if settings.forge.kind != "github":
        fail(f"{settings.forge.kind} has no Apps: give it a token")

    def show(page: str) -> None:
        typer.echo(f"Open {page} in a browser on this host (or through ssh -L), and make the App.", err=True)

    app = make(
        made,
        server=server,
        api=settings.forge.api.rstrip("/"),
        organization=organization,
        folder=settings.state_directory / "secrets",
        show=show,
    )
    typer.echo(
        f"The App {clean(app['slug'])} is made. Give the daemon its number and key:\n"
        f"  RUNNERD_FORGE_APP_ID={app['id']}\n"
        f"  RUNNERD_FORGE_APP_PRIVATE_KEY_FILE={app['key']}\n"
        f"Install it at {server}/apps/{clean(app['slug'])}, and run `runnerd connect OWNER/REPO`, "
        "which also gives its webhook the daemon's secret."
    )

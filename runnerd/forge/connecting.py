"""Joins a repository to this daemon: its webhook, a ping that arrives, and the permissions that are there.

Safe to repeat: a webhook with our address is brought up to date, not made again. Every lack is a finding with
what it costs and its cure; nothing is raised for what the forge refuses.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

import trio

from runnerd.model import Finding

from .permissions import (
    ADMINISTRATION,
    COMMENTS,
    CONTENTS,
    EVENTS,
    HOOKS,
    OF_APP,
    ONLY_APPS,
    STATUSES,
    missing,
)
from .protocol import Forge, ForgeDenied, ForgeUnavailable, Gone
from .rest import repository_path

LOOKS = 10
"""Looks at a webhook's deliveries, a second apart, for the answer to a ping: GitHub waits ten seconds."""
NOWHERE = "0" * 40
"""A commit that no repository has: a status for it says what a token may, and leaves nothing behind."""

Kind = Literal["app", "token", "gitea"]


async def connect(
    forge: Forge,
    repository: str,
    *,
    kind: Kind,
    url: str,
    secret: str,
    sleep: Callable[[float], Awaitable[object]] = trio.sleep,
) -> list[Finding]:
    """Join a repository; `url` is where the forge reaches `POST /webhook`, empty where it cannot."""
    connection = _Connection(forge, repository, url, secret, sleep)
    try:
        if not await connection.visible(kind):
            return connection.findings
        if kind == "app":
            await connection.app_permissions()
            await connection.app_webhook()
        else:
            await connection.token_permissions(kind)
            await connection.webhook(kind)
    except (ForgeDenied, ForgeUnavailable) as error:
        connection.say("forge", "problem", str(error))
    return connection.findings


class _Connection:
    def __init__(
        self,
        forge: Forge,
        repository: str,
        url: str,
        secret: str,
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self.findings: list[Finding] = []
        self._forge = forge
        self._repository = repository
        self._url = url
        self._secret = secret
        self._sleep = sleep
        self._path = repository_path(repository)

    def say(
        self, about: str, verdict: Literal["good", "warning", "problem"], found: str, cure: str = ""
    ) -> None:
        self.findings.append(Finding(about, verdict, found, cure))

    async def _ask(self, method: str, path: str, body: object = None, permission: str = "") -> Any:
        reply = await self._forge.ask(
            method, path, repository=self._repository, permission=permission, body=body
        )
        return reply.json()

    async def visible(self, kind: Kind) -> bool:
        """Whether the repository can be seen at all."""
        try:
            found = await self._ask("GET", self._path, permission="Metadata: read")
        except Gone:
            cure = "give the token this repository, or install the App on it"
            self.say("repository", "problem", f"{self._repository} is not there, or we do not see it", cure)
            return False
        name = str(found.get("full_name") or self._repository)
        self.say("repository", "good", f"{name}, {'private' if found.get('private') else 'public'}")
        if name.lower() != self._repository.lower():
            self.say("repository", "warning", f"it was renamed to {name}", "use its new name from here on")
        return True

    # --- a GitHub App ---

    async def app_permissions(self) -> None:
        """What the installation was allowed, and which events it is sent."""
        installation = (await self._forge.ask("GET", f"{self._path}/installation")).json()
        granted = dict(installation.get("permissions") or {})
        for need in missing(OF_APP, granted):
            verdict: Literal["warning", "problem"] = "problem" if need is CONTENTS else "warning"
            cure = f"set {need.title} at the App's page, and let the installation's owner accept it"
            self.say(need.title, verdict, f"missing: {need.cost}", cure)
        for need in OF_APP:
            if need.met(granted):
                self.say(need.title, "good", "granted")
        if absent := sorted(set(EVENTS) - set(installation.get("events") or ())):
            cure = "subscribe to them at the App's page; some need a permission first"
            self.say("events", "warning", f"the App is not sent: {', '.join(absent)}", cure)
        else:
            self.say("events", "good", "the App is sent all that can start a workflow")

    async def app_webhook(self) -> None:
        """The App's own webhook: one for all its installations."""
        config = (await self._forge.ask("GET", "/app/hook/config")).json()
        there = str(config.get("url") or "")
        if not self._url:
            cure = "give --url, or [server] public_url, the address GitHub reaches this daemon at"
            found = f"the App's goes to {there or 'nowhere'}"
            self.say("webhook", "warning" if there else "problem", found, cure)
            return
        wanted = {"url": self._url, "content_type": "json", "secret": self._secret, "insecure_ssl": "0"}
        await self._forge.ask("PATCH", "/app/hook/config", body=wanted)
        self.say("webhook", "good", f"the App's goes to {self._url}, with our secret")
        latest = (await self._forge.ask("GET", "/app/hook/deliveries?per_page=1")).json()
        if latest:
            code = latest[0].get("status_code")
            self._delivered(code, f"the last delivery ({latest[0].get('event')})")

    # --- a token ---

    async def token_permissions(self, kind: Kind) -> None:
        """What can be learnt of a token without leaving anything behind: GitHub tells nobody."""
        if kind == "token":
            body = {"state": "pending", "context": "runnerd / connect"}
            try:
                await self._ask("POST", f"{self._path}/statuses/{NOWHERE}", body, STATUSES.title)
            except Gone:
                self._lacks(STATUSES.title, STATUSES.cost)
            except ForgeDenied as denied:  # for want of the permission, or of the commit
                if denied.permission:
                    self._lacks(STATUSES.title, STATUSES.cost)
                else:
                    self.say(STATUSES.title, "good", "granted")
            self.say("check runs", "warning", "only an App may write them: results are commit statuses",
                     "`runnerd connect --app` prints what to make one from")  # fmt: skip
            for need in (COMMENTS, ADMINISTRATION):
                path = (
                    f"{self._path}/pulls?per_page=1"
                    if need is COMMENTS
                    else f"{self._path}/actions/permissions"
                )
                try:
                    await self._ask("GET", path, permission=need.title)
                except ForgeDenied:
                    self.say(need.title, "warning", f"missing: {need.cost}", f"give the token {need.title}")
        else:
            self.say("check runs", "warning", "this forge has none: results are commit statuses")

    def _lacks(self, title: str, cost: str) -> None:
        self.say(title, "problem", f"missing: {cost}", f"give the token the permission {title}")

    async def webhook(self, kind: Kind) -> None:
        """The repository's webhook: made or brought up to date, and pinged."""
        if not self._url:
            cure = "give --url, or [server] public_url, the address the forge reaches this daemon at"
            self.say("webhook", "problem", "nobody knows where to send it", cure)
            return
        try:
            hook = await self._made(kind)
            await self._pinged(kind, hook)
        except ForgeDenied as denied:
            self.say("webhook", "problem", str(denied), f"give the token {HOOKS.title}, or make it by hand: "
                     f"{self._url}, application/json, the daemon's secret")  # fmt: skip

    async def _made(self, kind: Kind) -> int:
        hooks = await self._ask("GET", f"{self._path}/hooks?per_page=100", permission=HOOKS.title)
        events = [event for event in EVENTS if event not in ONLY_APPS]
        config = {"url": self._url, "content_type": "json", "secret": self._secret}
        body: dict[str, Any] = {"active": True, "events": events, "config": config}
        if kind == "gitea":
            body["events"] = [
                "push",
                "pull_request",
                "create",
                "delete",
                "issues",
                "issue_comment",
                "release",
            ]
            body["type"] = "gitea"
        else:
            config["insecure_ssl"] = "0"
            body["name"] = "web"
        for hook in hooks or ():
            if isinstance(hook, dict) and (hook.get("config") or {}).get("url") == self._url:
                number = int(hook["id"])
                await self._ask("PATCH", f"{self._path}/hooks/{number}", body, HOOKS.title)
                self.say("webhook", "good", f"{self._url} was there, and has our secret and events now")
                return number
        made = await self._ask("POST", f"{self._path}/hooks", body, HOOKS.title)
        self.say("webhook", "good", f"made: {self._url}")
        return int(made["id"])

    async def _pinged(self, kind: Kind, hook: int) -> None:
        """Have the forge send something, and ask it what our daemon answered."""
        path = f"{self._path}/hooks/{hook}"
        if kind == "gitea":
            await self._ask("POST", f"{path}/tests", permission=HOOKS.title)
            self.say("ping", "warning", "sent; this forge does not say how it was answered",
                     "look at the webhook's page, or at `runnerd runs`")  # fmt: skip
            return
        before = {item["id"] for item in await self._deliveries(path)}
        await self._ask("POST", f"{path}/pings", permission=HOOKS.title)
        for _ in range(LOOKS):
            await self._sleep(1.0)
            for item in await self._deliveries(path):
                if item["id"] not in before and item.get("event") == "ping":
                    self._delivered(item.get("status_code"), "a ping")
                    return
        self.say("ping", "problem", "GitHub did not say within ten seconds how it was answered",
                 "look at the webhook's page under Recent Deliveries")  # fmt: skip

    async def _deliveries(self, path: str) -> Sequence[dict[str, Any]]:
        found = await self._ask("GET", f"{path}/deliveries?per_page=20", permission=HOOKS.title)
        return [item for item in found or () if isinstance(item, dict) and "id" in item]

    def _delivered(self, code: object, what: str) -> None:
        if isinstance(code, int) and 200 <= code < 300:
            self.say("ping", "good", f"{what} was answered {code}")
        elif code == 403:
            self.say("ping", "problem", f"{what} was answered 403: the daemon has another webhook secret",
                     "start the daemon with the secret that this command has")  # fmt: skip
        elif not code:
            self.say("ping", "problem", f"{what} did not reach anybody at {self._url}",
                     "start `runnerd serve`, and see that the address leads to it from outside")  # fmt: skip
        else:
            self.say("ping", "problem", f"{what} was answered {code}", "see the daemon's log")


def manifest(url: str, name: str = "runnerd") -> dict[str, Any]:
    """Return the manifest that GitHub makes an App from, with all that we need and nothing more."""
    permissions = {need.name: need.level for need in OF_APP}
    permissions |= {"issues": "read", "metadata": "read", "merge_queues": "read"}
    return {
        "name": name,
        "url": url.removesuffix("/webhook") or url,
        "hook_attributes": {"url": url, "active": True},
        "public": False,
        "default_permissions": permissions,
        "default_events": list(EVENTS),
    }

"""A fake service on loopback, and machines had from it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from runnerd.machines.driver import Machine, Size
from runnerd.machines.execution import Rung
from runnerd.machines.fcctl.driver import FcctlDriver, open_fcctl_driver
from runnerd.machines.fcctl.service import Service, open_service


def _fake() -> Any:
    """The module beside this file; `importlib` mode gives test folders no package."""
    name = "fcctl_fake_service"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("fake_service.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A running fake service and its address."""
    with _fake().serving(tmp_path / "vms") as (service, address):
        yield service, address


@pytest.fixture
def fake(served: tuple[Any, str]) -> Any:
    """The fake service: its attributes are its traps."""
    return served[0]


@pytest.fixture
def web_token() -> Callable[[float], str]:
    """Makes a token of the service's form that runs out at a time."""
    return _fake().web_token  # type: ignore[no-any-return]


@pytest.fixture
async def service(served: tuple[Any, str]) -> AsyncIterator[Service]:
    """A client of the fake service."""
    async with open_service(served[1], "token") as opened:
        yield opened


@pytest.fixture
def opened(
    served: tuple[Any, str], tmp_path: Path
) -> Callable[..., AbstractAsyncContextManager[FcctlDriver]]:
    """Opens a driver for the fake service, impatient unless told otherwise."""

    def open_(**options: Any) -> AbstractAsyncContextManager[FcctlDriver]:
        token = options.pop("token", "token")
        given = {
            "state": tmp_path,
            "vm_type": "focal",
            "patience": 2.0,
            "poll": 0.02,
            "ladder": (Rung(2, 60.0), Rung(15, 60.0), Rung(9, 60.0)),
            **options,
        }
        return open_fcctl_driver(served[1], token, **given)

    return open_


@pytest.fixture
async def driver(
    opened: Callable[..., AbstractAsyncContextManager[FcctlDriver]],
) -> AsyncIterator[FcctlDriver]:
    """A driver for the fake service."""
    async with opened() as driver:
        yield driver


@pytest.fixture
def ready(driver: FcctlDriver) -> Callable[[], Awaitable[Machine]]:
    """Gives a leased machine."""
    return lambda: leased(driver)


async def leased(driver: FcctlDriver) -> Machine:
    """A machine for a job."""
    machine = await driver.clone(await driver.build_template("ubuntu", Size()))
    await machine.thaw()
    await machine.lease()
    return machine

"""What `runnerd doctor` says of a remote Firecracker service."""

import importlib.util
import time
from pathlib import Path

import pytest

from runnerd.cli import doctor
from runnerd.config import load


@pytest.fixture
def fakes():
    """The module with the fake service."""
    path = Path(__file__).parents[1] / "machines/fcctl/fake_service.py"
    spec = importlib.util.spec_from_file_location("fcctl_fake_service", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(tmp_path: Path, address: str, token: str = "token"):
    flags = {"machines.firecracker_api_url": address, "machines.firecracker_auth_token": token}
    return load(None, environ={"STATE_DIRECTORY": str(tmp_path), "HOME": str(tmp_path)}, flags=flags)


def test_service_that_is_well(tmp_path, fakes) -> None:
    """A service that takes the token and has room is good; one without room is a warning."""
    with fakes.serving(tmp_path / "vms") as (service, address):
        finding = doctor.remote_service(settings(tmp_path, address), now=time.time())
        assert (finding.verdict, finding.found) == (
            "good",
            f"{address} is well and takes the token; 0 machines",
        )
        service.max_vms = 0
        assert doctor.remote_service(settings(tmp_path, address), now=time.time()).verdict == "warning"


def test_room_on_the_other_host(tmp_path) -> None:
    """This host's memory says nothing about machines elsewhere; that nothing limits them is a warning."""
    assert doctor.remote_room(4).verdict == "good"
    unlimited = doctor.remote_room(0)
    assert (unlimited.verdict, unlimited.cure) == ("warning", "set [pool] max_total")


def test_token_and_address(tmp_path, fakes) -> None:
    """A token out of its time, a refused one and an absent service are problems that say which."""
    now = time.time()
    with fakes.serving(tmp_path / "vms") as (service, address):
        old = doctor.remote_service(settings(tmp_path, address, fakes.web_token(now - 7200)), now=now)
        assert (old.verdict, "ran out 2.0 hours ago" in old.found) == ("problem", True)
        service.token = fakes.web_token(now + 7200)
        soon = doctor.remote_service(settings(tmp_path, address, service.token), now=now)
        assert (soon.verdict, "runs out in 2.0 hours" in soon.found) == ("warning", True)
        wrong = doctor.remote_service(settings(tmp_path, address, "wrong"), now=now)
        assert (wrong.verdict, "refuses the token" in wrong.found) == ("problem", True)
    absent = doctor.remote_service(settings(tmp_path, "http://127.0.0.1:1"), now=now)
    assert (absent.verdict, "GET /health" in absent.found) == ("problem", True)

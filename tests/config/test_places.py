"""Lines and columns of keys in TOML files."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from runnerd.config import places

TEXT = '''\
top = 1
[server]
  port = 3000
host.name = "x"
long = """
[no.table]
nokey = 1
"""
[ repositories . "owner/na me" ]
remote = 'x'
list = [
    "a = 1",
]
[[many]]
x = 1
'''


def test_places() -> None:
    """Tables and keys are found at their first character, quoted and dotted ones too."""
    tomllib.loads(TEXT)
    assert places.find(TEXT) == {
        ("top",): (1, 1),
        ("server",): (2, 2),
        ("server", "port"): (3, 3),
        ("server", "host", "name"): (4, 1),
        ("server", "long"): (5, 1),
        ("repositories", "owner/na me"): (9, 3),
        ("repositories", "owner/na me", "remote"): (10, 1),
        ("repositories", "owner/na me", "list"): (11, 1),
        ("many",): (14, 3),
        ("many", "x"): (15, 1),
    }


def test_nearest() -> None:
    """A key without a place of its own stands where the table around it does, else at the top."""
    found = {("a",): (3, 2)}
    assert places.nearest(found, ("a", "b", "c")) == (3, 2)
    assert places.nearest(found, ("x",)) == (1, 1)


@given(st.text(alphabet="ab.\"'[]=\n #\\", max_size=60))
def test_any_valid_text(text: str) -> None:
    """Whatever text the parser accepts, finding its places raises nothing."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    places.find(text)

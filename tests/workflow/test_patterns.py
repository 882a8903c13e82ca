"""Filter patterns: the worked examples of GitHub's documentation, order, errors and hostile patterns."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerd.workflow.patterns import (
    MAX_PATTERN,
    _Automaton,
    _expression,
    _parse,
    check_pattern,
    match_patterns,
)

EXAMPLES = [
    ("feature/*", ["feature/my-branch", "feature/your-branch"], ["feature", "feature/a/b"]),
    ("feature/**", ["feature/beta-a/my-branch", "feature/x"], ["feature"]),
    ("main", ["main"], ["main2", "Main"]),
    ("*", ["main", "releases"], ["all/the/branches"]),
    ("**", ["all/the/branches", "x", ""], []),
    ("*feature", ["mona-feature", "feature", "ver-10-feature"], ["a/feature"]),
    ("v2*", ["v2", "v2.0", "v2.9"], ["v1"]),
    ("v[12].[0-9]+.[0-9]+", ["v1.10.1", "v2.0.0"], ["v3.0.0", "v1.0", "v1..0"]),
    ("*.jsx?", ["page.js", "page.jsx"], ["page.jsxx"]),
    ("**.js", ["index.js", "js/index.js", "src/js/app.js"], ["index.jsx"]),
    ("docs/*", ["docs/README.md", "docs/file.txt"], ["docs/a/b"]),
    ("docs/**/*.md", ["docs/README.md", "docs/mona/hello-world.md", "docs/a/markdown/file.md"], ["docs.md"]),
    ("**/docs/**", ["docs/hello.md", "dir/docs/my-file.txt", "space/docs/plan/space.doc"], ["mydocs/a"]),
    ("**/README.md", ["README.md", "js/README.md"], ["XREADME.md"]),
    ("**/*src/**", ["a/src/app.js", "my-src/code/js/app.js"], ["srcs/a"]),
    ("**/*-post.md", ["my-post.md", "path/their-post.md"], ["post.md"]),
    ("**/migrate-*.sql", ["migrate-10909.sql", "db/migrate-v1.0.sql", "db/sept/migrate-v1.sql"], ["x"]),
    ("\\*x", ["*x"], ["ax"]),
    ("a+b", ["ab", "aab"], ["b"]),
    ("a.b", ["a.b"], ["axb"]),
]


@pytest.mark.parametrize(("pattern", "yes", "no"), EXAMPLES)
def test_examples_of_the_documentation(pattern, yes, no):
    """Each pattern takes what the documentation says, and not its neighbours."""
    assert [value for value in yes if not match_patterns([pattern], value)] == []
    assert [value for value in no if match_patterns([pattern], value)] == []


def test_the_last_pattern_that_matches_decides():
    """`!` deselects, a later pattern selects again."""
    patterns = ["releases/**", "!releases/**-alpha", "releases/10-alpha"]
    assert match_patterns(patterns, "releases/10")
    assert not match_patterns(patterns, "releases/11-alpha")
    assert match_patterns(patterns, "releases/10-alpha")
    assert not match_patterns(["!x"], "y")


@pytest.mark.parametrize(
    "pattern", ["", "[a", "[]", "[z-a]", "a\\", "*+", "?", "+a", "a?+", "x" * (MAX_PATTERN + 1)]
)
def test_malformed_patterns_are_refused(pattern):
    """A pattern with no meaning is a ValueError with a sentence."""
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        check_pattern(pattern)


def test_no_pattern_explodes():
    """A pattern full of stars costs linear time."""
    start = time.thread_time()
    assert not match_patterns(["*a" * 400 + "b"], "a" * 4000)
    assert time.thread_time() - start < 2


@settings(max_examples=500)
@given(
    st.text(alphabet="ab/*?+[]-\\.", max_size=10),
    st.text(alphabet="ab/.-", max_size=10),
)
def test_both_ways_of_matching_agree(pattern, value):
    """The regular expression and the automaton take the same values."""
    try:
        items = _parse(pattern)
    except ValueError:
        return
    expression = re.compile("".join(map(_expression, items)), re.DOTALL)
    assert (expression.fullmatch(value) is not None) == _Automaton(items).matches(value)

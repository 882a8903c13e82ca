"""The shell texts that do in a remote machine what its service cannot: pure, for bash and the usual tools.

Every text may be run twice with the effect of once, for an answer that is lost is asked for again.
"""

from __future__ import annotations

import base64
import posixpath
import shlex
from collections.abc import Mapping, Sequence

PIECE = 66 << 10
"""Bytes of a file in one text: as base64 still below what one argument of a program may have (128 KiB)."""

_q = shlex.quote


def gate(seed: bytes, now: float, folders: Sequence[str], mark: str) -> str:
    """Stir `seed` into the randomness, set the clock where that is allowed, make folders, say who it is.

    Prints `KEY VALUE` lines: boot, machine, host, probe (32 bytes from the kernel), clock, and mark, which is
    what the file `mark` holds. The folders are made with sudo where the user may not; with it and Perl the
    kernel is made to take up the seed at once (RNDRESEEDCRNG), which it does by itself within a minute.
    """
    made = " ".join(map(_q, folders))
    return f"""
printf %s {_q(base64.b64encode(seed).decode())} | base64 -d >/dev/urandom
[ "$(id -u)" = 0 ] && may= || may='sudo -n'
$may perl -e 'open(my $it, ">", "/dev/urandom") and ioctl($it, 0x5207, 0)' >/dev/null 2>&1
$may date -u -s @{now:.0f} >/dev/null 2>&1
mkdir -p {made} 2>/dev/null || {{ $may mkdir -p {made} && $may chown "$(id -u):$(id -g)" {made}; }} || exit 1
for tool in base64 setsid env tar seq sed; do
  command -v $tool >/dev/null || {{ echo "lacks $tool" >&2; exit 1; }}
done
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "machine $(cat /etc/machine-id 2>/dev/null)"
echo "host $(hostname 2>/dev/null || cat /proc/sys/kernel/hostname)"
echo "probe $(head -c 32 /dev/urandom | base64 -w0)"
echo "clock $(date +%s)"
echo "mark $(cat {_q(mark)} 2>/dev/null)"
"""


def set_mark(path: str, word: str) -> str:
    """Write a word to a file and see that all files are on the disk, which may be all that is kept."""
    return f"mkdir -p {_q(posixpath.dirname(path))} && echo {_q(word)} >{_q(path)} && sync"


def put_piece(path: str, data: bytes) -> str:
    """Write one piece of a file to be, in a file of its own."""
    return (
        f"mkdir -p {_q(posixpath.dirname(path))} && "
        f"printf %s {_q(base64.b64encode(data).decode())} | base64 -d >{_q(path)}"
    )


def join(pieces: Sequence[str], path: str, mode: int) -> str:
    """Make a file of its pieces; its name appears when it is whole, in place of what had the name.

    Run again after its answer was lost, it finds no pieces, and the file.
    """
    new = _q(f"{pieces[0]}.whole")
    parts = " ".join(map(_q, pieces))
    return (
        f"if [ -e {_q(pieces[0])} ]; then mkdir -p {_q(posixpath.dirname(path))} && cat {parts} >{new} && "
        f"chmod {mode:o} {new} && {{ [ ! -d {_q(path)} ] || [ -L {_q(path)} ] || rm -rf {_q(path)}; }} && "
        f"mv -fT {new} {_q(path)} && rm -f {parts}; else [ -f {_q(path)} ]; fi"
    )


def read(limits: Mapping[str, int], most: int) -> str:
    """Read regular files from their beginning, at most `most` bytes of each.

    Prints a line for each: `absent`, `irregular`, `large SIZE`, or `data SIZE BASE64`.
    """
    calls = "\n".join(f"look {_q(path)} {limit}" for path, limit in limits.items())
    return f"""
look() {{
  if [ ! -e "$1" ] && [ ! -L "$1" ]; then echo absent
  elif [ -L "$1" ] || [ ! -f "$1" ]; then echo irregular
  else
    size=$(wc -c <"$1") || exit 1
    if [ "$size" -gt "$2" ]; then echo "large $size"
    else printf 'data %s ' "$size"; head -c {most} "$1" | base64 -w0; echo; fi
  fi
}}
{calls}
"""


def read_on(path: str, offset: int, most: int) -> str:
    """Print as base64 what a file has from `offset` bytes on, at most `most`."""
    return f"tail -c +{offset + 1} {_q(path)} | head -c {most} | base64 -w0"


def lay_out(folders: Sequence[str], files: Sequence[str], programs: Sequence[str], search: str) -> str:
    """Make folders, empty files with their parents, and print `NAME PATH` of each program found."""
    parents = sorted({posixpath.dirname(file) for file in files} | set(folders))
    lines = ["set -e"]
    if parents:
        lines.append(f"mkdir -p {' '.join(map(_q, parents))}")
    for file in files:
        lines.append(f"[ ! -e {_q(file)} ] && [ ! -L {_q(file)} ] || rm -rf {_q(file)}; : >{_q(file)}")
    for name in programs:
        places = " ".join(_q(f"{folder}/{name}") for folder in search.split(":") if folder)
        lines.append(
            f"for at in {places}; do if [ -f $at ] && [ -x $at ]; then echo {_q(name)} $at; break; fi; done"
        )
    return "\n".join(lines)


def unpack(archive: str, into: str) -> str:
    """Unpack a compressed tar file of the machine into a folder, which is made, and remove it."""
    return (
        f"mkdir -p {_q(into)} && {{ [ ! -e {_q(archive)} ] || "
        f"tar -xzf {_q(archive)} -C {_q(into)} --no-same-owner; }} && rm -f {_q(archive)}"
    )


def launch(folder: str, argv: Sequence[str], env: Mapping[str, str], cwd: str, stdin: str) -> str:
    """Start a process that outlives this text, in a process group of its own, with its files in `folder`.

    `out` and `err` take its output, `pid` is its process group, and `code` appears with its exit status when
    it has ended. Fails, with words, when `cwd` is no folder or the program is not there. `stdin` is a path.
    """
    words = " ".join(map(_q, argv))
    variables = " ".join(_q(f"{name}={value}") for name, value in env.items())
    program = f"""echo $$ >{_q(folder)}/guard
set -m
cd {_q(cwd)} || exit 126
env -i {variables} {words} <{_q(stdin)} >{_q(folder)}/out 2>{_q(folder)}/err &
echo $! >{_q(folder)}/pid.new && mv {_q(folder)}/pid.new {_q(folder)}/pid
wait $!
echo $? >{_q(folder)}/code.new && mv {_q(folder)}/code.new {_q(folder)}/code
"""
    there = f"PATH={_q(env.get('PATH', ''))} command -v {_q(argv[0])} >/dev/null"
    place = _q(folder)
    return f"""
cd {_q(cwd)} || exit 1
{there} || {{ printf '%s is not there\\n' {_q(argv[0])} >&2; exit 1; }}
mkdir -p {_q(posixpath.dirname(folder))}
if mkdir {place} 2>/dev/null; then
  : >{place}/out; : >{place}/err
  printf %s {_q(base64.b64encode(program.encode()).decode())} | base64 -d >{place}/go
  # Job control, or what is started in the background would never hear an interrupt.
  set -m
  setsid bash {place}/go </dev/null >/dev/null 2>&1 &
fi
for try in $(seq 200); do
  [ -e {place}/pid ] && exit 0
  # What it started may have killed it before it wrote that down.
  [ -s {place}/guard ] && case "{_state_of(f"{place}/guard")}" in ''|Z) exit 0 ;; esac
  sleep 0.05
done
echo 'it did not start' >&2
exit 1
"""


def _state_of(file: str) -> str:
    """The state of the process whose number is in a file (proc(5)); Z of a zombie, nothing when gone."""
    return f"$(sed 's/.*) \\(.\\).*/\\1/' \"/proc/$(cat {file})/stat\" 2>/dev/null)"


def follow(folder: str, out: int, err: int, *, most: int, wait: float) -> str:
    """Wait a little until a process has said more than `out` and `err` bytes or has ended, and print it all.

    Three lines: `running`, `ended CODE` or `gone`, then what is new on each stream, as base64, at most `most`
    bytes. The status is looked at first: what is read after it is all that the process itself has said.
    """
    tries = max(1, round(wait / 0.1))
    return f"""
cd {_q(folder)} || exit 1
for try in $(seq {tries}); do
  [ -e code ] || [ "$(wc -c <out)" -gt {out} ] || [ "$(wc -c <err)" -gt {err} ] && break
  sleep 0.1
done
state="{_state_of("guard")}"
if [ -e code ]; then echo "ended $(cat code)"
elif [ -n "$state" ] && [ "$state" != Z ]; then echo running
elif [ -e code ]; then echo "ended $(cat code)"
else echo gone; fi
tail -c +{out + 1} out | head -c {most} | base64 -w0; echo
tail -c +{err + 1} err | head -c {most} | base64 -w0; echo
"""


def signal(folder: str, number: int) -> str:
    """Send a signal to a process's group, unless it has ended."""
    return f"""[ -e {_q(folder)}/code ] || kill -{number} -- "-$(cat {_q(folder)}/pid)" 2>/dev/null; :"""

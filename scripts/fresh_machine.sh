#!/usr/bin/env bash
# The README's two commands on a machine that has nothing: a bare Debian system (debootstrap: minbase, python3, git,
# make) in a temporary folder, with the mirror and the pip settings of this machine, and a clone of what is committed.
#     scripts/fresh_machine.sh
#
#   1. `make demo` by a person who may not install packages: stops and prints one command.
#   2. `make demo` by root: installs what that command would have, and everything else. From here on without a network.
#   3. `make demo` by root whose home folder cannot be written and whose EGL has no driver: goes on with OSMesa.
#   4. `make test` by that person.
#
# Installing is what this is for and takes its time; so that all of it stays under 8 minutes on two busy cores, the demo
# plays one episode a variant, and of the tests run those that touch what a system brings (GL, codecs, fonts, git,
# processes, files). CI runs the others on the machine itself. Exit status 77: such a system cannot be made here.
#
#   DEMO_ARGS, PYTEST_ARGS  other choices
#   PYTHON                  whose pip settings are taken; python3
set -euo pipefail
cd "$(dirname "$0")/.."
DEMO_ARGS=${DEMO_ARGS:---tasks reach --episodes 1 --max_plots 2}
WHAT_A_SYSTEM_BRINGS="foveate/bench foveate/cli foveate/data foveate/envs foveate/util foveate/viz tests/test_demo.py"
PYTEST_ARGS=${PYTEST_ARGS:-$WHAT_A_SYSTEM_BRINGS}
CLONE=/srv/foveate

impossible() {
  echo "fresh machine: $*" >&2
  exit 77
}

# Everything is mounted in a mount namespace of its own, which ends with its last process: whatever happens, nothing
# stays mounted, and what is removed at the end is the temporary folder alone.
if [ "${1:-}" != --inside ]; then
  [ "$(id -u)" -eq 0 ] || impossible "only root can build one"
  unshare --mount --pid --net --fork true 2>/dev/null || impossible "namespaces are not allowed here"
  command -v debootstrap >/dev/null || bash scripts/apt_install.sh debootstrap || impossible "no debootstrap"
  folder=$(mktemp -d "${TMPDIR:-/tmp}/fresh_machine.XXXXXX") inside=
  clean() {
    [ -z "$inside" ] || { kill -KILL "$inside" && wait "$inside"; } 2>/dev/null || true
    rm -rf --one-file-system "$folder" || { sleep 2 && rm -rf --one-file-system "$folder"; }
  }
  trap clean EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  git clone --quiet --no-local . "$folder/clone"
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child bash scripts/fresh_machine.sh --inside "$folder" &
  inside=$!
  wait "$inside" && status=0 || status=$?
  inside=
  exit "$status"
fi

folder=$2 system=$2/system log=$2/log
offline=()

say() {
  echo "fresh machine: $* ($SECONDS s)"
}

fail() {
  echo "fresh machine: $*; the end of what it said:" >&2
  tail -n 60 "$log" >&2
  exit 1
}

# The mirror that apt uses here, its options (a proxy, say), and what else this machine needs to reach it.
settings_of_apt() {
  local codename
  codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
  apt-get update -q >/dev/null
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
    grep " $codename" | sort -u >"$folder/sources.list"
  apt-config dump | grep '^Acquire::' >"$folder/apt.conf" || true
  local mirror
  mirror=$(awk -v release="$codename" '$3 == release && $4 == "main" { print $2; exit }' "$folder/sources.list")
  [ -n "$mirror" ] || fail "apt names no mirror of $codename"
  debootstrap --variant=minbase --include=python3,git,make "$codename" "$system" "$mirror" >"$log" 2>&1 ||
    fail "debootstrap failed"
  cp "$folder/sources.list" "$system/etc/apt/sources.list"
  cp "$folder/apt.conf" "$system/etc/apt/apt.conf.d/90host"
  cp -L /etc/resolv.conf /etc/hosts "$system/etc/"
}

# pip's settings, from files and environment, become the system's own; what they name on this disk is there too.
settings_of_pip() {
  "${PYTHON:-python3}" - "$system" <<'PY' | while IFS= read -r path; do
import ast, configparser, os, shutil, subprocess, sys
from pathlib import Path

system = Path(sys.argv[1])
settings = configparser.RawConfigParser()
for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
    if os.environ.get(variable):
        settings.read_dict({"global": {"cert": os.environ[variable]}})
told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
for line in told.splitlines():
    name, _, value = line.partition("=")
    section, _, key = name.rpartition(".")
    if key != "cache-dir":
        settings.read_dict({"global" if section == ":env:" else section: {key: ast.literal_eval(value)}})
(system / "etc/pip").mkdir()
for section in settings.sections():
    for key, value in settings.items(section):
        for word in value.split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and path.is_file():  # under another name: packages write certificates at the usual one
                copy = shutil.copy(path, system / "etc/pip" / f"{key}-{path.name}")
                settings[section][key] = settings[section][key].replace(word, f"/{copy.relative_to(system)}")
            elif path.is_absolute() and path.is_dir():
                print(path.parent if "index-url" in key else path)  # an index's pages point beside it
with open(system / "etc/pip.conf", "w") as file:
    settings.write(file)
PY
    share "$path" "$path" ro
  done
  local cache
  if cache=$("${PYTHON:-python3}" -m pip cache dir 2>/dev/null) && mkdir -p "$cache"; then
    share "$cache" /root/.cache/pip rw
  fi
}

share() { # FOLDER WHERE ro|rw
  mkdir -p "$system$2"
  mount --bind "$1" "$system$2"
  mount -o "remount,bind,$3" "$system$2"
}

# What the processor or the way to the network asks for travels, nothing else of this environment.
environment=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8)
while IFS= read -r name; do
  environment+=("$name=${!name}")
done < <(compgen -e | grep -E '^OPENBLAS_|_(proxy|PROXY)$')

in_system() { # USER HOME COMMAND
  "${offline[@]}" chroot --userspec="$1" "$system" env -i "${environment[@]}" HOME="$2" USER="$1" \
    bash -c "cd $CLONE && $3" >"$log" 2>&1
}

mkdir "$system"
if awk '/^MemAvailable/ { exit $2 < 12e6 }' /proc/meminfo; then
  mount -t tmpfs none "$system" # some 3 GB, in half the time
fi
settings_of_apt
mount -t proc proc "$system/proc"
mount --rbind /dev "$system/dev"
settings_of_pip
mv "$folder/clone" "$system$CLONE"
chroot "$system" useradd --create-home person
say "a bare system"

! in_system person /home/person "make demo DEMO_ARGS='$DEMO_ARGS'" || fail "a person who cannot install packages went on"
[ "$(grep -c 'apt-get install' "$log")" = 1 ] || fail "not one command to run was printed"
printed=$(sed -n 's/.*apt-get install -y //p' "$log")
say "make demo by a person who may not install packages asks for: $printed"

in_system root /root "make demo DEMO_ARGS='$DEMO_ARGS'" || fail "make demo failed"
[ "$(sed -n 's/^setup: installing \(.*\) with apt-get$/\1/p' "$log")" = "$printed" ] ||
  fail "what was installed is not what the person was told ($printed)"
cat "$log"
say "make demo by root"

offline=(unshare --net bash -c '! command -v ip >/dev/null || ip link set lo up; exec "$@"' -)
mount -t tmpfs -o ro none "$system/root"
environment+=(__EGL_VENDOR_LIBRARY_DIRS=/nowhere)
in_system root /root "make demo DEMO_ARGS='$DEMO_ARGS'" || fail "make demo without network, home and EGL failed"
grep -q "^setup: .*OSMesa" "$log" || fail "nothing was said of OSMesa"
unset 'environment[-1]'
say "make demo without a network, a home that can be written, and EGL: with OSMesa"

chroot "$system" chown -R person "$CLONE"
in_system person /home/person "make test PYTEST_ARGS='$PYTEST_ARGS'" || fail "make test failed"
tail -n 1 "$log"
say "make test by a person, without a network"

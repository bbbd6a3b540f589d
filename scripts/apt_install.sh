#!/usr/bin/env bash
# Install Debian packages where that is allowed without a question; otherwise print the one command to run and fail.
set -euo pipefail
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  sudo=(sudo -n)
fi
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
  echo "setup: installing $* with apt-get"
  export DEBIAN_FRONTEND=noninteractive
  # The package lists of a fresh machine are empty or old.
  "${sudo[@]}" apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 ||
    { "${sudo[@]}" apt-get update -q >/dev/null && "${sudo[@]}" apt-get install -y -q --no-install-recommends "$@" >/dev/null; }
else
  echo "setup: this needs $*; run: sudo apt-get install -y $*" >&2
  exit 1
fi

#!/usr/bin/env bash
# Install Debian packages where that is allowed without a question; otherwise print the one command to run and fail.
#     scripts/apt_install.sh PACKAGE...
set -euo pipefail
sudo=()
if [ "$(id -u)" -ne 0 ]; then
  sudo=(sudo -n)
fi
if command -v apt-get >/dev/null && "${sudo[@]}" true 2>/dev/null; then
  echo "setup: installing $* with apt-get"
  install=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@")
  # The package lists of a fresh machine are empty or old.
  "${install[@]}" >/dev/null 2>&1 || { "${sudo[@]}" apt-get update -q >/dev/null && "${install[@]}" >/dev/null; }
elif command -v sudo >/dev/null; then
  echo "setup: this needs packages of the system; run: sudo apt-get update && sudo apt-get install -y $*" >&2
  exit 1
else
  echo "setup: this needs packages of the system; run as root: apt-get update && apt-get install -y $*" >&2
  exit 1
fi

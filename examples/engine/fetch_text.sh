#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# Gets the Jargon File (public domain, 1.7 MB) as plain text, out of the package jargon-text of Debian and Ubuntu, and
# prints its path. An installed package is used as it is; otherwise apt downloads it, and nothing is installed.
#
#   fetch_text.sh [DIRECTORY]       default: ${XDG_CACHE_HOME:-$HOME/.cache}/kvc

set -euo pipefail

name=jargon.txt
bytes=1681817
installed=/usr/share/doc/jargon-text/jargon.txt.gz

say() { printf '%s\n' "fetch_text: $*" >&2; }
fail() {
  say "$@"
  say "any long English text will do instead: pass it with --text FILE"
  exit 1
}

if [ $# -gt 1 ] || [[ "${1:-}" == -* ]]; then
  printf 'usage: %s [DIRECTORY]\n' "$0" >&2
  exit 2
fi
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/kvc}
text=$directory/$name

is_right() { [ -f "$1" ] && [ "$(wc -c <"$1")" -eq "$bytes" ]; }

if is_right "$text"; then
  say "already there"
  printf '%s\n' "$text"
  exit 0
fi

mkdir -p "$directory" || fail "cannot make the directory '$directory'"
work=$(mktemp -d "$directory/fetch.XXXXXX") || fail "cannot write to '$directory'"
trap 'rm -rf "$work"' EXIT

if [ -f "$installed" ]; then
  say "unpacking the installed package"
  gzip -dc "$installed" >"$work/$name"
else
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "there is no apt here to get jargon-text with"
  say "downloading jargon-text (0.7 MB)"
  # apt drops its rights for downloads, and must be able to write here nonetheless.
  chmod 755 "$work"
  (cd "$work" && apt-get -o APT::Sandbox::User=root download jargon-text >/dev/null) || fail "apt could not download jargon-text"
  dpkg-deb --fsys-tarfile "$work"/jargon-text_*.deb | tar -xO ".$installed" | gzip -d >"$work/$name" ||
    fail "the package jargon-text does not hold $installed"
fi

is_right "$work/$name" || fail "the text is not $bytes bytes long; nothing was installed"
mv "$work/$name" "$text"
say "done"
printf '%s\n' "$text"

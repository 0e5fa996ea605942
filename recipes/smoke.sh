#!/usr/bin/env bash
# The smoke of every recipe, or of those that are named, two at a time; ends with a table of seconds.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

smoke() {
    local name=$1 begun=$SECONDS verdict=passed
    "$here/$name/run.sh" --smoke --work "$work/$name" >"$work/$name.log" 2>&1 || verdict=FAILED
    printf '%-26s %5d s  %s\n' "$name" $((SECONDS - begun)) "$verdict"
    [ $verdict = passed ] || { tail -n 5 "$work/$name.log" && return 1; }
}
export -f smoke
export here work

if [ $# -gt 0 ]; then printf '%s\n' "$@"; else for run in "$here"/*/run.sh; do basename "$(dirname "$run")"; done; fi |
    xargs -P "${SMOKES_AT_ONCE:-2}" -I{} bash -c 'smoke {}'

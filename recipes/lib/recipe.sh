# The frame of every recipe: options, checks before anything runs, and steps that are run once. Sourced by run.sh.
# shellcheck shell=bash
set -euo pipefail

LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$LIB/../.." && pwd)
# What `make install` has set up beside the recipes is used without activating it.
[ ! -x "$ROOT/.venv/bin/nmtprune" ] || PATH=$ROOT/.venv/bin:$PATH
export PYTHONUTF8=1 OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

# shellcheck source=checks.sh
. "$LIB/checks.sh"
# shellcheck source=data.sh
. "$LIB/data.sh"
# shellcheck source=train.sh
. "$LIB/train.sh"
# shellcheck source=prune.sh
. "$LIB/prune.sh"
# shellcheck source=evaluate.sh
. "$LIB/evaluate.sh"

usage() {
    cat <<USAGE
Usage: $0 [OPTIONS]

$(sed -n '2s/^# //p' "$0")

  --smoke       Every step, on a generated corpus and a tiny model, in minutes on a CPU. Its figures mean nothing.
  --data DIR    Take these files instead of downloading: $(needed_files | tr '\n' ' ')(each also as .gz).
  --work DIR    Folder of the run; the same command goes on where an earlier one stopped. [recipe-runs/$RECIPE]
  --gpus N      GPUs of this machine to train on. [all there are]
  --torchrun    Start trainings by torchrun, one process per GPU; l0 and lottery start theirs themselves.
  --only GLOB   Only the steps of these names: spreads a recipe over machines that share the folder.
USAGE
}

# run_recipe "$@": the whole recipe, from its options to the table; run.sh defines main and calls this last.
run_recipe() {
    HERE=$(cd "$(dirname "$0")" && pwd)
    RECIPE=$(basename "$HERE")
    SMOKE='' DATA='' WORK='' GPUS='' TORCHRUN='' ONLY='*'
    # shellcheck source=defaults.sh
    . "$LIB/defaults.sh"
    # shellcheck source=/dev/null
    . "$HERE/settings.sh"
    read_options "$@"
    if [ -n "$SMOKE" ]; then
        . "$LIB/smoke.sh"
        ! declare -F smoke_settings >/dev/null || smoke_settings
    fi
    # Betas hold a blank: only an array keeps them one word.
    OPTIMIZER=(--optimizer adam --adam-betas "$ADAM_BETAS" --clip-norm "$CLIP_NORM")
    check_tools
    check_data
    choose_gpus
    open_work
    DATA_BIN=$WORK/data-bin
    say "$RECIPE${SMOKE:+ (smoke)}: everything goes into $WORK"
    main
    compare_with_paper
    exit # bash reads a script as it goes: what is edited below while it runs shall not be read
}

read_options() {
    while [ $# -gt 0 ]; do
        case $1 in
            --smoke) SMOKE=yes ;;
            --torchrun) TORCHRUN=yes ;;
            --data | --work | --gpus | --only)
                [ $# -gt 1 ] || fail 2 "$1: a value is missing (see $0 --help)"
                case $1 in --data) DATA=$2 ;; --work) WORK=$2 ;; --gpus) GPUS=$2 ;; --only) ONLY=$2 ;; esac
                shift
                ;;
            -h | --help) usage && exit 0 ;;
            *) fail 2 "$1: there is no such option (see $0 --help)" ;;
        esac
        shift
    done
    case $GPUS in *[!0-9]*) fail 2 "--gpus '$GPUS': write a number" ;; esac
    [ -z "$SMOKE" ] || [ -z "$DATA" ] || fail 2 "--smoke has a corpus of its own: leave --data away"
    WORK=${WORK:-recipe-runs/$RECIPE${SMOKE:+-smoke}}
}

# choose_gpus: all that are visible, or the first of them; fairseq-train takes every GPU that it sees.
choose_gpus() {
    if [ -z "$GPUS" ]; then
        GPUS=$(python -c 'import torch; print(torch.cuda.device_count())')
    elif [ "$GPUS" -eq 0 ]; then
        export CUDA_VISIBLE_DEVICES=''
    else
        CUDA_VISIBLE_DEVICES=$(cut -d , -f "1-$GPUS" <<<"${CUDA_VISIBLE_DEVICES:-$(seq -s , 0 $((GPUS - 1)))}")
        export CUDA_VISIBLE_DEVICES
    fi
}

say() { printf '%s\n' "$*" >&2; }

# fail CODE MESSAGE: one line, and the exit code that nmtprune documents for such failures.
fail() {
    printf 'Error: %s\n' "$2" >&2
    exit "$1"
}

# step NAME COMMAND [ARGUMENT...]: run a command or function of this shell once, its output in logs/NAME.log.
# A step that was interrupted is run again from its beginning; functions therefore replace what they write, and programs
# that can go on by themselves are told to. Two processes on one folder share the steps: the second waits.
step() {
    STEP=$1
    shift
    # shellcheck disable=SC2053 # ONLY is a pattern
    [[ $STEP == $ONLY ]] || return 0
    exec 9>"$WORK/done/$STEP.lock"
    flock -n 9 || { say "wait  $STEP (another process is at it)" && flock 9; }
    if [ -e "$WORK/done/$STEP" ]; then
        say "done  $STEP"
    else
        say "run   $STEP"
        run_step "$@"
    fi
    exec 9>&-
}

run_step() {
    local log=$WORK/logs/$STEP.log begun=$SECONDS status
    rm -f "$WORK/measured/$STEP.tsv.part"
    # The subshell stands alone, not in a condition: only so does errexit hold inside functions.
    set +e
    (set -e; "$@") </dev/null >>"$log" 2>&1
    status=$?
    set -e
    [ "$status" -eq 0 ] || fail "$status" "$(reason "$log" "$status") (full log: $log; the same command goes on here)"
    [ ! -e "$WORK/measured/$STEP.tsv.part" ] || mv "$WORK/measured/$STEP.tsv.part" "$WORK/measured/$STEP.tsv"
    printf '%s\n' $((SECONDS - begun)) >"$WORK/done/$STEP.part"
    mv "$WORK/done/$STEP.part" "$WORK/done/$STEP"
}

# reason LOG STATUS: why a step failed: its last line that says Error, or its last line.
reason() {
    local line
    line=$(grep -a 'Error' "$1" | tail -n 1 | sed 's/^Error: //')
    [ -n "$line" ] || line=$(grep -av '^[[:space:]]*$' "$1" | tail -n 1)
    printf 'step %s ended with %s: %s' "$STEP" "$2" "${line:-nothing in its log}"
}

# run COMMAND [ARGUMENT...]: show a command in the log as it can be typed, and run it.
run() {
    printf '$ %s\n' "${*@Q}" >&2
    "$@"
}

# record ROW COLUMN VALUE [LOW HIGH [SAMPLE]]: a figure of this step, for the table at the end.
record() {
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:-}" "${5:-}" "${6:-1}" >>"$WORK/measured/$STEP.tsv.part"
}

# pick FILE KEY...: values of a JSON file by their paths, on one line.
pick() { python "$LIB/pick.py" "$@"; }

compare_with_paper() {
    [ "$ONLY" = '*' ] || return 0
    python "$LIB/compare.py" "$HERE/expected.tsv" "$WORK/measured" -o "$WORK/comparison.tsv" --base "$BASE_ROW" \
        ${SMOKE:+--smoke}
}

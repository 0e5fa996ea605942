# What is checked before the first step: programs, files, disk space, and that the folder is of the same recipe.
# shellcheck shell=bash

# Programs and the package that has each of them. TOOLS of a recipe adds names.
declare -A PACKAGE_OF=(
    [nmtprune]="nmtprune" [fairseq-train]="nmtprune[fairseq]" [fairseq-preprocess]="nmtprune[fairseq]"
    [sacrebleu]="sacrebleu" [subword-nmt]="subword-nmt" [sacremoses]="sacremoses" [curl]="curl" [mtdata]="nmtprune[recipes]" [ct2-fairseq-converter]="nmtprune[ct2]" [pymarian]="nmtprune[marian]"
)

check_tools() {
    local tool missing=()
    for tool in nmtprune fairseq-train fairseq-preprocess sacrebleu $TOOLS; do
        command -v "$tool" >/dev/null || missing+=("$tool (pip install '${PACKAGE_OF[$tool]}')")
    done
    if [ -z "$SMOKE$DATA" ] && [[ $SETS == *=mtdata:* ]]; then
        command -v mtdata >/dev/null || missing+=("mtdata (pip install '${PACKAGE_OF[mtdata]}')")
    fi
    command -v flock >/dev/null || missing+=("flock (package util-linux)")
    [ ${#missing[@]} -eq 0 ] || fail 6 "not installed: $(join_by '; ' "${missing[@]}")"
}

# needed_files: what --data must hold.
needed_files() {
    local set
    for set in $(set_names); do printf '%s.%s\n%s.%s\n' "$set" "$SOURCE_LANG" "$set" "$TARGET_LANG"; done
    [ -z "${PRETRAINED_FILES:-}" ] || printf '%s\n' $PRETRAINED_FILES
}

check_data() {
    local file missing=()
    [ -n "$DATA" ] || return 0
    [ -d "$DATA" ] || fail 5 "$DATA: no such folder"
    DATA=$(cd "$DATA" && pwd)
    for file in $(needed_files); do [ -e "$DATA/$file" ] || [ -e "$DATA/$file.gz" ] || missing+=("$file"); done
    [ ${#missing[@]} -eq 0 ] || fail 5 "$DATA: not there: $(join_by ', ' "${missing[@]}") (plain or .gz)"
}

# open_work: the folder of the run, with a mark of its settings; refuses a disk that is too small.
open_work() {
    local settings
    case $WORK in /*) ;; *) WORK=$PWD/$WORK ;; esac
    # Paths are words among options here.
    case $WORK in *[[:space:]]*) fail 2 "--work $WORK: a path with blanks will not do" ;; esac
    mkdir -p "$WORK" || fail 8 "$WORK: the folder cannot be made"
    WORK=$(cd "$WORK" && pwd)
    settings=$(printf '%s\n' "$RECIPE smoke=$SMOKE data=$DATA" | cat - "$LIB/defaults.sh" "$LIB/smoke.sh" "$HERE/settings.sh" | sha256sum)
    if [ -e "$WORK/settings.sha256" ]; then
        [ "$(cat "$WORK/settings.sha256")" = "$settings" ] ||
            fail 8 "$WORK: holds a run of other settings or data: --work names another folder"
    else
        [ -z "$(ls -A "$WORK")" ] || fail 8 "$WORK: holds other files: --work names a new folder"
        check_disk
        printf '%s\n' "$settings" >"$WORK/settings.sha256"
    fi
    mkdir -p "$WORK"/{done,logs,measured,models,plans,results}
}

check_disk() {
    local free_gb
    free_gb=$(($(df --output=avail -k "$WORK" | tail -n 1) / 1048576))
    say "disk: about $DISK_GB GB needed ($DISK_WHY), $free_gb GB free"
    [ "$free_gb" -ge "$DISK_GB" ] ||
        fail 8 "$WORK: $free_gb GB free, about $DISK_GB GB needed ($DISK_WHY): --work names a folder on a larger disk"
}

# join_by SEPARATOR WORD...
join_by() {
    local separator=$1 first=$2
    shift 2
    printf '%s' "$first" "${@/#/$separator}"
}

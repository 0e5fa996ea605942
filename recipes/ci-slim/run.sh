#!/usr/bin/env bash
# A pipeline for production: greedy -> slim -> check -> export, on a model that is trained here; see pipeline.sh.
# shellcheck source=../lib/recipe.sh
. "$(dirname "$0")/../lib/recipe.sh"

main() {
    prepare_corpus
    train_model base
    evaluate base "$WORK/models/base.pt"
    step pipeline run env MAX_DROP="$MAX_DROP" MIN_SPEEDUP="$MIN_SPEEDUP" MAX_SIZE="$MAX_SIZE" \
        SEARCH="$(search_options)" "$HERE/pipeline.sh" "$WORK/models/base.pt" "$DATA_BIN" "$WORK/pipeline"
    evaluate slim "$WORK/pipeline/slim.pt"
    step verdict record_verdict
}

# record_verdict: what the gate has measured.
record_verdict() {
    local number
    for number in 0 1 2; do
        # shellcheck disable=SC2046 # two words
        record_condition $(pick "$WORK/pipeline/check.json" "conditions.$number.option" "conditions.$number.value")
    done
}

record_condition() { record slim "check${1#-}" "$2"; }

run_recipe "$@"
